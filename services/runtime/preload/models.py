"""The models of a stage, mapped and measured in its preload."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from acestage.checkpoints import Checkpoint, open_checkpoints
from acestage.checkpoints.component_names import COMPONENTS_OF_STAGES
from acestage.checkpoints.likeness import Stamps, architecture_of, have_same_weights, stamps_of
from services.runtime.devices.devices import resolve_dtype
from services.runtime.memory.measurements import Measurements
from services.runtime.preload.facts import MappedModel, PreloadFacts
from services.runtime.preload.parallel_measuring import recall_all
from services.runtime.stage_config import StageConfig
from services.runtime.stage_worker import StageWorker


@dataclass(frozen=True, slots=True)
class StageModels:
    """All models of a stage.

    Attributes:
        facts: what the service must know of them.
        workers: by name, of those models that have weights of their own.
        stamps: of the files of these weights, as they were mapped.
    """

    facts: PreloadFacts
    workers: Mapping[str, StageWorker]
    stamps: Mapping[str, Stamps]


def map_models(config: StageConfig) -> StageModels:
    """Maps the weights of every model, and finds out what it needs.

    Weights that several models have in common are mapped once. What models of one architecture need is
    measured once as well, and kept for later starts, because it depends on nothing else.

    Raises:
        CheckpointError: a checkpoint is damaged.
        FailedPreconditionError: two models have the same name.
    """
    checkpoints = open_checkpoints(
        config.checkpoints, checkpoints_dir=Path(config.checkpoints_dir), variant=config.variant
    )
    module = importlib.import_module(f"services.{config.stage}.worker")
    components = COMPONENTS_OF_STAGES[config.stage]
    owners = _owners(checkpoints, components)
    own = [c for c in checkpoints if owners[c.name] == c.name]
    stamps = {c.name: stamps_of(c, components) for c in own}
    workers = {c.name: module.load(c) for c in own}
    dtypes = {name: _dtypes(config, workers[owner]) for name, owner in owners.items()}
    threads = None if config.device.startswith("cuda") else config.thread_count()
    kept = Measurements(Path(config.cache_dir))
    digests = {
        (c.name, dtype): kept.digest(config.stage, architecture_of(c, components), dtype, threads)
        for c in checkpoints
        for dtype in dtypes[c.name]
    }
    memories = recall_all(
        {
            digest: partial(workers[owners[name]].memory, getattr(torch, dtype), threads)
            for (name, dtype), digest in digests.items()
        },
        kept,
    )
    models = {
        name: MappedModel(
            weights_of=owner,
            dtype=dtypes[name][0],
            memories={dtype: memories[digests[name, dtype]] for dtype in dtypes[name]},
        )
        for name, owner in owners.items()
    }
    return StageModels(PreloadFacts(models), workers, stamps)


def _owners(checkpoints: Sequence[Checkpoint], components: Sequence[str]) -> dict[str, str]:
    """By the name of each checkpoint, that of the first one with the same weights."""
    owners: dict[str, str] = {}
    for checkpoint in checkpoints:
        same = (
            first
            for first in checkpoints
            if first is checkpoint or have_same_weights(first, checkpoint, components)
        )
        owners[checkpoint.name] = next(same).name
    return owners


def _dtypes(config: StageConfig, worker: StageWorker) -> tuple[str, ...]:
    """The data type to compute in, and the one that it may be given up for."""
    stored = next(worker.modules()[0].parameters()).dtype
    dtype = resolve_dtype(
        config.dtype, config.device, str(stored).removeprefix("torch."), convolves=config.stage == "vae"
    )
    # float16 is given up for float32 where its values are not finite.
    return (dtype, "float32") if dtype == "float16" else (dtype,)
