"""The C library's heap, which keeps what is freed unless it is told otherwise.

Glibc has `malloc_trim` and `mallopt`; elsewhere these functions do nothing.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
"""mallopt(3)."""

_NEVER_BYTES = (1 << 31) - 1
_GROWTH_BYTES = 64 << 20

_LARGE_BYTES = 256 << 10
"""Far below a chunk of a tensor, and far above what a gRPC process allocates all the time."""


def trim() -> None:
    """Gives the free pages of all arenas back to the kernel; takes milliseconds."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_blocks() -> None:
    """From now on nothing that is freed goes back to the kernel before `trim`.

    By default glibc gets blocks of megabytes from the kernel one by one, as pages that are not there until
    they are touched: in the layers of a model that takes a tenth of the time.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)
        libc.mallopt(_M_TOP_PAD, _GROWTH_BYTES)


def map_large_blocks() -> None:
    """Large blocks get pages of their own from now on, which go back to the kernel as soon as they are freed.

    By default glibc stops doing so as it sees such blocks freed, up to 32 MiB, and then keeps twice the
    largest. Not for workers: they would get every activation as fresh pages.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
