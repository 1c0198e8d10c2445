"""The folder of finished songs, and what leaves it again."""
