"""Where compiled kernels are kept: by what they were made from, and by what can run them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from services.runtime.kernels.kernel import Kernel
from services.runtime.processes.cpu_features import cpu_digest
from services.runtime.processes.private_folder import is_private

log = logging.getLogger(__name__)

_COMPILING = Path(__file__).with_name("compiling.py")
"""Says how kernels are compiled."""


def kernel_path(kernel: Kernel, cache_dir: Path, device: torch.device, dtype: torch.dtype) -> Path:
    """The file of `kernel`, compiled for `dtype` and for such a device as `device`."""
    name = f"{kernel.name}-{_dtype_name(dtype)}-{_source_digest(kernel)}.so"
    return kernels_folder(cache_dir, device) / name


def kernels_folder(cache_dir: Path, device: torch.device) -> Path:
    """The folder of all kernels for such a device as `device`."""
    return cache_dir / "kernels" / f"{_capability(device)}-torch-{torch.__version__}"


def missing(
    kernels: Iterable[Kernel], cache_dir: Path, device: torch.device, dtype: torch.dtype
) -> list[Kernel]:
    """Those of `kernels` that were not compiled yet."""
    return [kernel for kernel in kernels if not kernel_path(kernel, cache_dir, device, dtype).is_file()]


def use_compiled(
    kernels: Sequence[Kernel], cache_dir: Path, device: torch.device, dtype: torch.dtype
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
        loaded = [_load(path, device) for path in paths]
    except FileNotFoundError:  # deleted just now
        return False
    except RuntimeError as error:  # what torch raises for a file that is no library, or not one for it
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
        self, kernels: Sequence[Kernel], cache_dir: Path, device: torch.device, dtype: torch.dtype
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


def _load(path: Path, device: torch.device):  # type: ignore[no-untyped-def]  # of torch._C
    if device.type == "cpu":
        return torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    return torch._C._aoti.AOTIModelContainerRunnerCuda(str(path), 1, str(device), str(path.parent))


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
def _source_digest(kernel: Kernel) -> str:
    """Of what `kernel` takes, and of the whole module that it is in: it may call other functions there."""
    module = inspect.getmodule(kernel.function)
    assert module is not None
    return _digest(f"{kernel.arguments} {inspect.getsource(module)} {_COMPILING.read_text()}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
