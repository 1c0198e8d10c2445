"""Whether a device or its driver is too old for the installed build of torch."""

from __future__ import annotations

import re

import pynvml
import torch

from acestage.errors import FailedPreconditionError
from services.runtime.devices.cuda_devices import Nvml, cuda_handle

_ARCHITECTURE = re.compile(r"(?:sm|compute)_(\d+)(\d)")
_OLDER_CARDS = "cu126"
"""The builds with code for cards before Turing; they do with an older driver, too."""


def check_torch(device: str, nvml: Nvml = pynvml) -> None:
    """Looks for the device through NVML alone: this process can still fork others that use CUDA.

    Raises:
        FailedPreconditionError: this build of torch cannot use `device`.
        UnavailableError: the driver does not answer, or has no such device.
    """
    if not device.startswith("cuda"):
        return
    built_for = torch.version.cuda
    if built_for is None:
        raise FailedPreconditionError(
            f"device: is {device}, but torch {torch.__version__} was built without CUDA; accepted: cpu"
        )
    with cuda_handle(device, nvml) as card:
        driver = nvml.nvmlSystemGetCudaDriverVersion_v2()
        name, capability = nvml.nvmlDeviceGetName(card), nvml.nvmlDeviceGetCudaComputeCapability(card)
    oldest = _oldest_capability()
    if capability < oldest:
        raise FailedPreconditionError(
            f"device: is {device}, a {name} of compute capability {capability[0]}.{capability[1]}, but torch "
            f"{torch.__version__} has code from {oldest[0]}.{oldest[1]} on; accepted: cpu, or a build for "
            f"older cards: pip install torch=={torch.__version__.partition('+')[0]}+{_OLDER_CARDS} "
            f"--index-url https://download.pytorch.org/whl/{_OLDER_CARDS}"
        )
    major, minor = driver // 1000, driver % 1000 // 10
    if major < int(built_for.partition(".")[0]):
        raise FailedPreconditionError(
            f"device: is {device}, whose driver has CUDA {major}.{minor}, but torch {torch.__version__} was "
            f"built for CUDA {built_for}; accepted: a newer driver, a build of torch for CUDA {major}, or cpu"
        )


def _oldest_capability() -> tuple[int, int]:
    """The first compute capability that this build of torch has code for."""
    found = (_ARCHITECTURE.match(name) for name in torch.cuda.get_arch_list())
    return min(((int(each[1]), int(each[2])) for each in found if each), default=(0, 0))
