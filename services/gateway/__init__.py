"""The gateway: the front doors over HTTP, and what they hand out."""
