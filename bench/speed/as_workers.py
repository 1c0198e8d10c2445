"""Our engines as worker processes have them, and the C library's heap as either side has it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from acestage.planning import Quantization
from acestage.settings import load_settings
from services.runtime import heap
from services.runtime.kernels.store import use_compiled

Event = TypeVar("Event")

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
"""mallopt(3)."""


def place(worker: Any, dtype: torch.dtype, quantization: Quantization) -> str:
    """Places `worker` on the CPU; returns "compiled" or "eager", which is how its kernels run."""
    cpu = torch.device("cpu")
    is_compiled = use_compiled(worker.kernels(), load_settings().cache_dir, cpu, dtype)
    worker.place(cpu, dtype, quantization)
    return "compiled" if is_compiled else "eager"


def keep_freed_blocks() -> None:
    """The heap as workers have it."""
    heap.keep_freed_blocks()


def as_by_default() -> None:
    """The heap as it is in a process that says nothing about it.

    There glibc raises its thresholds as it sees large blocks freed. It stops to do so once it was told any,
    so they are set to where it raises them to.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
        libc.mallopt(_TOP_PAD, 128 << 10)


def each_after(prepare: Callable[[], None], events: Iterator[Event]) -> Iterator[Event]:
    """The `events`, with `prepare` called before each of them."""
    while True:
        prepare()
        try:
            event = next(events)
        except StopIteration:
            return
        yield event
