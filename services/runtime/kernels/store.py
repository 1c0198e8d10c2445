"""Where compiled kernels are kept: by what they were made from, and by what can run them."""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from services.runtime.kernels.kernel import AnyKernel
from services.runtime.processes.cpu_features import cpu_digest
from services.runtime.processes.private_folder import is_private

log = logging.getLogger(__name__)

_COMPILING = Path(__file__).with_name("compiling.py").read_text()
"""Says how kernels are compiled."""


def kernel_path(kernel: AnyKernel, cache_dir: Path, device: torch.device, dtype: torch.dtype) -> Path:
    """The file of `kernel`, compiled for `dtype` and for such a device as `device`."""
    name = f"{kernel.name}-{_dtype_name(dtype)}-{_source_digest(kernel)}.so"
    return kernels_folder(cache_dir, device) / name


def kernels_folder(cache_dir: Path, device: torch.device) -> Path:
    """The folder of all kernels for such a device as `device`."""
    return cache_dir / "kernels" / f"{_capability(device)}-torch-{torch.__version__}"


def missing(
    kernels: Iterable[AnyKernel], cache_dir: Path, device: torch.device, dtype: torch.dtype
) -> list[AnyKernel]:
    """Those of `kernels` that were not compiled yet."""
    return [kernel for kernel in kernels if not kernel_path(kernel, cache_dir, device, dtype).is_file()]


def use_compiled(
    kernels: Sequence[AnyKernel], cache_dir: Path, device: torch.device, dtype: torch.dtype
) -> bool:
    """Makes `kernels` run compiled, if all of them are there; returns whether they do. Takes milliseconds.

    All or none: which one made a result is one word, and results of one kind are alike.
    """
    paths = [kernel_path(kernel, cache_dir, device, dtype) for kernel in kernels]
    if not kernels or not all(path.is_file() for path in paths):
        return False
    try:
        if not all(map(is_private, (paths[0].parent, *paths))):
            log.warning("compiled kernels are not used, because others can write to %s", paths[0].parent)
            return False
        loaded = [kernel.load(path, device) for kernel, path in zip(kernels, paths, strict=True)]
    except FileNotFoundError:  # deleted just now
        return False
    except RuntimeError as error:
        log.warning(
            "compiled kernels are not used: one cannot be loaded; delete it, and run acestage warmup: %s",
            error,
        )
        return False
    for kernel, compiled in zip(kernels, loaded, strict=True):
        kernel.use(compiled, device.type, dtype)
    return True


class CompiledKernels:
    """Compiled kernels for a process that computes with `kernels`, as soon as all of them are there."""

    def __init__(
        self, kernels: Sequence[AnyKernel], cache_dir: Path, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._kernels = kernels
        self._where = (cache_dir, device, dtype)
        self._are_used = False

    @property
    def word(self) -> str:
        """How the kernels run: "compiled" or "eager", or empty where there are none."""
        return ("compiled" if self._are_used else "eager") if self._kernels else ""

    def look(self) -> bool:
        """Uses them from now on, if they were not used and are there; returns whether that changed."""
        if self._are_used:
            return False
        self._are_used = use_compiled(self._kernels, *self._where)
        return self._are_used


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@functools.cache
def _capability(device: torch.device) -> str:
    """What decides which machine code a device runs: the compiler is told to use all that it finds."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda-sm{major}{minor}"
    return f"cpu-{platform.machine()}-{cpu_digest()}"


@functools.cache
def _source_digest(kernel: AnyKernel) -> str:
    made_from = f"{kernel.source} {_COMPILING}"
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]
