"""What the service and its preload process agree on, apart so that the service need not import torch."""

MODULE = "services.runtime.preload"
"""What runs as the preload process; its workers, which are forked, keep its command line."""

FORK = b"f"
"""Sent by the service on the control socket, with the descriptor of the new worker's socket."""

MOST_REQUEST_BYTES = 8192
"""The largest configuration that can be sent to the template."""
