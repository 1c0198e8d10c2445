"""The C library's heap, which keeps what is freed unless it is told otherwise.

Glibc has `malloc_trim` and `mallopt`; elsewhere these functions do nothing.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""mallopt(3)."""

_NEVER_BYTES = (1 << 31) - 1

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""In the environment of a process before it starts: large blocks get huge pages, where the kernel gives them
to who asks. A fresh one is as soon touched as 512 small ones are found missing."""

_KEPT_BYTES = 16 << 20
"""The largest block that the layers of a transformer, and the VAE's decoder in pieces, take and free all the
time. The encoder takes larger ones for a tile, each of another size: there would be holes between them."""

_LARGE_BYTES = 256 << 10
"""Far below a chunk of a tensor, and far above what a gRPC process allocates all the time."""


def trim() -> None:
    """Gives the free pages of all arenas back to the kernel; takes milliseconds."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_blocks() -> None:
    """From now on blocks of up to 16 MiB stay with the process once they are freed, until `trim`.

    By default glibc gives the end of its heap back again and again, and finds its pages missing afterwards:
    that takes a tenth of the time in the layers of a model. Larger blocks get pages of their own.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)


def map_large_blocks() -> None:
    """Large blocks get pages of their own from now on, which go back to the kernel as soon as they are freed.

    By default glibc stops doing so as it sees such blocks freed, up to 32 MiB, and then keeps twice the
    largest. Not for workers: they would get every activation as fresh pages.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
