"""What the service and its preload process agree on, apart so that the service need not import torch."""

FORK = b"f"
"""Sent by the service on the control socket, with the descriptor of the new worker's socket."""
