"""Measures what stages need, from shapes alone. Imports torch and the models, which takes seconds."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
from functools import partial

import torch

from acestage.checkpoints import Checkpoint
from acestage.planning import StageMemory
from services.runtime.memory.measurements import Measurements
from services.runtime.preload.parallel_measuring import recall_all


def measure(
    digests: Mapping[str, str],
    checkpoint: Checkpoint,
    dtypes: Mapping[str, str],
    cpu_thread_count: int | None,
    kept: Measurements,
) -> dict[str, StageMemory]:
    """What the stages in `digests` need for `checkpoint`; keeps it, by their digests.

    Args:
        digests: by stage, those of `Measurements.digest`.
        checkpoint: whose shapes count; no file with weights need be there.
        dtypes: by stage, the name of the data type to compute in.
        cpu_thread_count: as in `StageWorker.memory`.
        kept: where other processes find it.

    Raises:
        InternalError: a measurement failed; the log says why.
    """
    torch.set_num_threads(1)  # nothing is computed
    modules = {stage: importlib.import_module(f"services.{stage}.worker") for stage in digests}
    gc.freeze()  # modules stay: nobody need look through them again
    gc.enable()
    wanted = {
        digest: partial(
            modules[stage].without_weights(checkpoint).memory, getattr(torch, dtypes[stage]), cpu_thread_count
        )
        for stage, digest in digests.items()
    }
    memories = recall_all(wanted, kept)
    return {stage: memories[digest] for stage, digest in digests.items()}
