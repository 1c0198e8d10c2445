"""The text encoder stage: caption, lyrics and metadata become conditioning."""
