"""What every stage shares: here what a stage is and what its engine calls, in the folders what runs it."""
