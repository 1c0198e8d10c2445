"""Worker processes: what they do, how the service keeps and starts them, and what passes between the two."""
