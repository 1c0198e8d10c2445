"""Audio on its way in, and kept for requests."""
