"""Whether the installed build of torch has code for a device, and its driver can run it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pynvml
import torch

from acestage.errors import FailedPreconditionError
from services.runtime.devices.cuda_devices import Nvml, cuda_handle

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([a-z]?)")
_OLDER_CARDS = "cu126"
"""Builds with code for cards before Turing, but not for Blackwell; any driver with CUDA 12 runs them."""
_BLACKWELL = (10, 0)


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
    device_is = f"device: is {device}, a {name} of compute capability {capability[0]}.{capability[1]}"
    codes = _codes()
    oldest = min((code.capability for code in codes), default=(0, 0))
    if capability < oldest:
        raise FailedPreconditionError(
            f"{device_is}, but torch {torch.__version__} has code from {oldest[0]}.{oldest[1]} on; accepted: "
            f"cpu, or a build for older cards: {_install(_OLDER_CARDS)}"
        )
    if codes and not any(code.runs_on(capability) for code in codes):
        raise FailedPreconditionError(
            f"{device_is}, but torch {torch.__version__} has no code for it; accepted: cpu, or another build"
        )
    major, minor = driver // 1000, driver % 1000 // 10
    if major < int(built_for.partition(".")[0]):
        other = _install(_OLDER_CARDS) if capability < _BLACKWELL else "a build of torch for CUDA 12"
        accepted = ["a newer driver", *([other] if major == 12 else []), "or cpu"]
        raise FailedPreconditionError(
            f"{device_is}, whose driver has CUDA {major}.{minor}, but torch {torch.__version__} was built "
            f"for CUDA {built_for}; accepted: {', '.join(accepted)}"
        )


@dataclass(frozen=True)
class _Code:
    """What a build of torch has for one architecture: machine code ("sm") or what drivers compile."""

    kind: str
    capability: tuple[int, int]
    is_for_it_alone: bool

    def runs_on(self, card: tuple[int, int]) -> bool:
        """See https://docs.nvidia.com/cuda/blackwell-compatibility-guide/."""
        if self.is_for_it_alone or card < self.capability:
            return card == self.capability
        return self.kind == "compute" or card[0] == self.capability[0]


def _codes() -> list[_Code]:
    found = (_ARCHITECTURE.fullmatch(name) for name in torch.cuda.get_arch_list())
    return [_Code(each[1], (int(each[2]), int(each[3])), each[4] == "a") for each in found if each]


def _install(build: str) -> str:
    version = torch.__version__.partition("+")[0]
    return f"pip install torch=={version}+{build} --index-url https://download.pytorch.org/whl/{build}"
