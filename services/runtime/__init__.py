"""What every stage shares: what a stage is begins here, and the folders have the rest, each a part of it."""
