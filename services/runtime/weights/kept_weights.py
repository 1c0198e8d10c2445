"""Prepared weights on disk, as a worker made them: the next one maps them, and makes nothing.

Their pages can be shared by processes and dropped by the kernel, as those of a checkpoint can; to a device
with memory of its own go no bytes but these. A file is as large as the weights, so there is one for each
stage, checkpoint, data type and kind of device: what was made of other files, or by other code, is replaced,
and removed once the checkpoint is gone and another one's weights are kept.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import pickle
import shutil
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from acestage.checkpoints.likeness import Stamps
from acestage.planning import GIB, MIB, Quantization
from services.runtime.processes.cpu_features import cpu_digest
from services.runtime.processes.private_folder import OWN_FILE, is_private, make_private
from services.runtime.processes.work_folder import WorkFolder
from services.runtime.stage_worker import LayerTensors, PreparedWeights, StageWorker

log = logging.getLogger(__name__)

_LEFT_BYTES = GIB
"""What must stay free on the disk."""

_OWN_CODE = inspect.getsource(sys.modules[__name__])

_UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError)


class KeptWeights:
    """The file for weights that are made of others.

    Args:
        cache_dir: its folder's parent; both are created where they are missing.
        stamps: of the files with the weights that these are made of.
        device: where the weights will be.
        dtype: the data type that is computed in.
    """

    def __init__(self, cache_dir: Path, stamps: Stamps, device: torch.device, dtype: torch.dtype) -> None:
        self._files = sorted(stamps)
        key = [self._files, device.type, str(dtype)]
        self.path = cache_dir / "weights" / f"{_digest(json.dumps(key))[:16]}.pt"
        self._device = device
        self._dtype = dtype
        self._made_of = [key, stamps]

    def restore(self, weights: PreparedWeights) -> bool:
        """Makes the layers of `weights` what they were once prepared; False where that is not kept.

        On the CPU they are parts of the mapped file then.
        """
        kept = self._read(self._basis(weights))
        if kept is None or kept.keys() != weights.layer_names():
            return False
        try:
            weights.restore(kept, self._device, self._dtype)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # those that were restored are what they would become
            log.warning("weights are prepared anew, since those in %s are of no use: %s", self.path, error)
            return False
        return True

    def keep(self, weights: PreparedWeights) -> None:
        """Writes `weights`, which are prepared; others see all of it or nothing."""
        kept = weights.tensors()
        size = sum(tensor.nbytes for tensors in kept.values() for tensor in tensors.values())
        folder = self.path.parent
        try:
            make_private(folder)
            _remove_orphans(folder, self.path)
            free_bytes = shutil.disk_usage(folder).free
            if free_bytes < size + _LEFT_BYTES:
                log.info("prepared weights are not kept: %d MiB are free in %s", free_bytes // MIB, folder)
                return
            with closing(WorkFolder(folder)) as making:
                written = making.path / self.path.name
                content = {"basis": self._basis(weights), "files": self._files, "layers": kept}
                torch.save(content, written)
                written.chmod(OWN_FILE)
                written.replace(self.path)
        except (OSError, RuntimeError) as error:  # the latter is what torch raises where a disk is full
            log.info("prepared weights are not kept in %s: %s", self.path, error)

    def _basis(self, weights: PreparedWeights) -> str:
        """The digest of all that decides what the weights are; takes milliseconds."""
        made_by = [
            cpu_digest(),
            *(f"{name} {metadata.version(name)}" for name in weights.libraries),
            *map(_digest, (*weights.code, _OWN_CODE)),
        ]
        return _digest(json.dumps([self._made_of, made_by], sort_keys=True))

    def _read(self, basis: str) -> LayerTensors | None:
        try:
            if not (is_private(self.path.parent) and is_private(self.path)):
                log.warning("weights are prepared anew: others can write to %s", self.path)
                return None
            found = _load(self.path)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            log.info("weights are prepared anew, since %s cannot be read: %s", self.path, error)
            return None
        if found["basis"] != basis:
            return None
        kept: LayerTensors = found["layers"]
        return kept


def place(
    worker: StageWorker,
    kept: KeptWeights,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization,
) -> None:
    """Moves the weights of `worker` to `device`, with those that are kept; keeps them where they were not."""
    prepared = worker.prepared_weights(quantization)
    is_restored = prepared is not None and kept.restore(prepared)
    worker.place(device, dtype, quantization)
    if prepared is not None and not is_restored:
        kept.keep(prepared)


def _remove_orphans(folder: Path, kept: Path) -> None:
    """Removes what was made of checkpoints that are gone."""
    for path in folder.glob("*.pt"):
        if path == kept:
            continue
        try:
            files = _load(path).get("files", ())
        except _UNREADABLE:
            continue  # it is replaced when it is wanted
        if not any(map(os.path.exists, files)):
            path.unlink(missing_ok=True)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
