"""Our engines, the environment and the C library's heap, as worker processes have them."""

from __future__ import annotations

import os
import sys

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import COMPONENTS_OF_STAGES
from acestage.checkpoints.likeness import stamps_of
from acestage.planning import Quantization
from acestage.settings import load_settings
from services.runtime.kernels.store import use_compiled
from services.runtime.preload.environment import preload_environment
from services.runtime.processes import heap
from services.runtime.stage_worker import StageWorker
from services.runtime.weights import kept_weights


def place(
    stage: str, worker: StageWorker, checkpoint: Checkpoint, dtype: torch.dtype, quantization: Quantization
) -> str:
    """Places `worker` on the CPU; returns "compiled" or "eager", which is how its kernels run."""
    cpu = torch.device("cpu")
    cache_dir = load_settings().cache_dir
    is_compiled = use_compiled(worker.kernels(cpu, dtype), cache_dir, cpu, dtype)
    stamps = stamps_of(checkpoint, COMPONENTS_OF_STAGES[stage])
    kept_weights.place(
        worker, kept_weights.KeptWeights(cache_dir, stamps, cpu, dtype), cpu, dtype, quantization
    )
    return "compiled" if is_compiled else "eager"


def take_environment(module: str) -> None:
    """Gives this process the environment and the heap of a worker; starts `python -m module` anew for it."""
    environment = preload_environment(None)
    if environment != os.environ:
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(command[0], command, environment)
    heap.keep_freed_blocks()
