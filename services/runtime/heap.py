"""The C library's heap, which keeps what is freed unless it is told otherwise.

Glibc has `malloc_trim` and `mallopt`; elsewhere these functions do nothing.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
"""mallopt(3)."""

_LARGE_BYTES = 256 << 10
"""Far below a chunk of a tensor, and far above what a gRPC process allocates all the time."""


def trim() -> None:
    """Gives the free pages of all arenas back to the kernel; takes milliseconds."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def map_large_blocks() -> None:
    """Large blocks get pages of their own from now on, which go back to the kernel as soon as they are freed.

    By default glibc stops doing so as it sees such blocks freed, up to 32 MiB, and then keeps twice the
    largest. Not for workers: they would get every activation as fresh pages.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
