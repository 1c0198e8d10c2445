"""INT8 weights on disk, as a worker made them: the next one maps them, and makes nothing.

Their pages can be shared by processes and dropped by the kernel, as those of a checkpoint can; to a device
with memory of its own half as many bytes go. A file is as large as the weights, so there is one for each
stage, checkpoint, data type and kind of device: what was made of other files, or by other code, is replaced.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import pickle
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path

import torch

from acestage.checkpoints.likeness import Stamps
from acestage.planning import GIB, MIB, Quantization
from services.runtime import integer_products, packed_weights, quantization
from services.runtime.cpu_features import cpu_digest
from services.runtime.kernels import int8
from services.runtime.private_folder import is_private, make_private
from services.runtime.quantization import is_quantized
from services.runtime.stage_worker import StageWorker
from services.runtime.work_folder import WorkFolder

log = logging.getLogger(__name__)

_CODE = (int8, integer_products, packed_weights, quantization)
"""Our modules that decide what the weights are, beside this one."""
_LIBRARIES = ("torch", "torchao")
_LEFT_BYTES = GIB
"""Of the disk, which stay free."""


class KeptInt8:
    """The file for weights that are made of others.

    Args:
        cache_dir: its folder's parent; both are created where they are missing.
        stamps: of the files of the weights that it is made of.
        device: that the weights are for.
        dtype: that is computed in.
    """

    def __init__(self, cache_dir: Path, stamps: Stamps, device: torch.device, dtype: torch.dtype) -> None:
        key = [sorted(stamps), device.type, str(dtype)]
        self.path = cache_dir / "int8" / f"{_digest(json.dumps(key))[:16]}.pt"
        self._dtype = dtype
        self._made_of = [key, stamps]

    def restore(self, modules: Sequence[torch.nn.Module]) -> bool:
        """Makes the layers of `modules` int8 that are to be so; False where that is not kept.

        They are on the CPU then, as parts of the mapped file.
        """
        kept = self._read()
        layers = dict(_layers(modules))
        if kept is None or kept.keys() != layers.keys():
            return False
        try:
            for name, layer in layers.items():
                if "packed" in kept[name]:
                    integer_products.restore(layer, kept[name])
                else:
                    quantization.restore(layer, kept[name], self._dtype)
        except RuntimeError as error:  # those that were restored are what they would become
            log.warning("INT8 weights are made anew, since those in %s are of no use: %s", self.path, error)
            return False
        return True

    def keep(self, modules: Sequence[torch.nn.Module]) -> None:
        """Writes the layers of `modules` that are int8; others see all of it or nothing."""
        kept = {
            name: integer_products.kept_tensors(layer) or quantization.kept_tensors(layer)
            for name, layer in _layers(modules)
        }
        size = sum(tensor.nbytes for tensors in kept.values() for tensor in tensors.values())
        folder = self.path.parent
        try:
            make_private(folder)
            free_bytes = shutil.disk_usage(folder).free
            if free_bytes < size + _LEFT_BYTES:
                log.info("INT8 weights are not kept: %d MiB are free in %s", free_bytes // MIB, folder)
                return
            with closing(WorkFolder(folder)) as making:
                written = making.path / self.path.name
                torch.save({"basis": self._basis, "layers": kept}, written)
                written.replace(self.path)
        except (OSError, RuntimeError) as error:  # the latter is what torch raises where a disk is full
            log.info("INT8 weights are not kept in %s: %s", self.path, error)

    @functools.cached_property
    def _basis(self) -> str:
        """Of all that decides what the weights are; takes milliseconds, which only INT8 is to cost."""
        return _digest(json.dumps([self._made_of, _made_by()], sort_keys=True))

    def _read(self) -> Mapping[str, Mapping[str, torch.Tensor]] | None:
        try:
            if not (is_private(self.path.parent) and is_private(self.path)):
                log.warning("INT8 weights are made anew: others can write to %s", self.path)
                return None
            found = torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            log.info("INT8 weights are made anew, since %s cannot be read: %s", self.path, error)
            return None
        if found["basis"] != self._basis:
            return None
        kept: Mapping[str, Mapping[str, torch.Tensor]] = found["layers"]
        return kept


def place(
    worker: StageWorker, kept: KeptInt8, device: torch.device, dtype: torch.dtype, quantization: Quantization
) -> None:
    """Moves the weights of `worker` to `device`, with those that are kept; keeps them where they were not."""
    is_int8 = quantization == "int8"
    is_restored = is_int8 and kept.restore(worker.modules())
    worker.place(device, dtype, quantization)
    if is_int8 and not is_restored:
        kept.keep(worker.modules())


def _layers(modules: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Linear]]:
    for index, module in enumerate(modules):
        for name, layer in module.named_modules():
            if is_quantized(name, layer):
                yield f"{index}.{name}", layer


def _made_by() -> list[str]:
    """All but the weights that decides what is made of them."""
    return [
        cpu_digest(),
        *(f"{name} {metadata.version(name)}" for name in _LIBRARIES),
        *(_digest(inspect.getsource(module)) for module in (*_CODE, sys.modules[__name__])),
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
