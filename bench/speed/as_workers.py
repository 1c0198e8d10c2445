"""Our engines, and the C library's heap, as worker processes have them."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from acestage.planning import Quantization
from acestage.settings import load_settings
from services.runtime import heap
from services.runtime.kernels.store import use_compiled


def place(worker: Any, dtype: torch.dtype, quantization: Quantization) -> str:
    """Places `worker` on the CPU; returns "compiled" or "eager", which is how its kernels run."""
    cpu = torch.device("cpu")
    is_compiled = use_compiled(worker.kernels(cpu, dtype), load_settings().cache_dir, cpu, dtype)
    worker.place(cpu, dtype, quantization)
    return "compiled" if is_compiled else "eager"


def take_heap(module: str) -> None:
    """Gives this process the heap of a worker; starts `python -m module` anew where it takes that."""
    if not heap.HUGE_PAGES.items() <= os.environ.items():
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(command[0], command, os.environ | heap.HUGE_PAGES)
    heap.keep_freed_blocks()
