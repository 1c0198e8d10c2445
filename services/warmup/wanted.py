"""Which kernels the stages would use here, and were not compiled yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from acestage.checkpoints import Checkpoint, open_checkpoints
from acestage.checkpoints.component_names import TRANSFORMER, VAE
from acestage.checkpoints.stored import stored_dtype
from acestage.settings import Settings
from services.dit.kernels import kernels_for
from services.runtime.devices.devices import resolve_dtype
from services.runtime.kernels.kernel import AnyKernel
from services.runtime.kernels.store import missing
from services.vae.kernels import KERNELS as VAE_KERNELS

_KERNELS: dict[str, Callable[[torch.device, torch.dtype], Sequence[AnyKernel]]] = {
    TRANSFORMER: kernels_for,
    VAE: lambda device, dtype: VAE_KERNELS,
}
"""By the component of a checkpoint whose stage uses them."""


@dataclass(frozen=True, slots=True)
class WantedKernel:
    """A kernel, and a data type that it would be used with."""

    kernel: AnyKernel
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.kernel.name} {str(self.dtype).removeprefix('torch.')}"


def find_wanted(settings: Settings, device: torch.device) -> list[WantedKernel]:
    """What the stages would use on `device` with `settings`, and was not compiled yet.

    Raises:
        CheckpointError: a checkpoint is damaged, or not there.
        FailedPreconditionError: two checkpoints have the same name.
    """
    checkpoints = open_checkpoints(
        settings.checkpoints, checkpoints_dir=settings.checkpoints_dir, variant=settings.variant
    )
    return [
        WantedKernel(kernel, dtype)
        for component, kernels_of in _KERNELS.items()
        for dtype in _dtypes(checkpoints, component, settings.dtype, device)
        for kernel in missing(kernels_of(device, dtype), settings.cache_dir, device, dtype)
    ]


def _dtypes(
    checkpoints: Iterable[Checkpoint], component: str, choice: str, device: torch.device
) -> list[torch.dtype]:
    """The data types that workers compute in, and those that they may be given up for."""
    names = {
        resolve_dtype(
            choice, str(device), stored_dtype(checkpoint.component(component)), convolves=component == VAE
        )
        for checkpoint in checkpoints
    }
    if "float16" in names:
        names.add("float32")  # float16 is given up for it where its values are not finite
    return [getattr(torch, name) for name in sorted(names)]
