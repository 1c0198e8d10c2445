"""Jobs: their line, their work, their logs, their history."""
