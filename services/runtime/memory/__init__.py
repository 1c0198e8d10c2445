"""What computations take, found from their shapes, and kept."""
