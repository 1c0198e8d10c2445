"""Whether this build of torch can use the device is found out before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from acestage.errors import FailedPreconditionError, UnavailableError
from services.runtime.preload.torch_build import check_torch
from tests.fake_nvml import FakeGpu, FakeNvml


@pytest.fixture(autouse=True)
def every_device_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_cpu_needs_no_driver() -> None:
    check_torch("cpu", FakeNvml(has_driver=False))


@pytest.mark.parametrize("built_for", ["12.6", "13.0", "13.2"])
def test_a_driver_runs_what_was_built_for_its_cuda_or_an_older_one(
    built_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    check_torch("cuda:0", FakeNvml(FakeGpu("GPU-a")))  # of CUDA 13.0


def test_a_driver_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    nvml = FakeNvml(FakeGpu("GPU-a"))
    nvml.cuda_version = 12080
    with pytest.raises(
        FailedPreconditionError, match=r"CUDA 12\.8, but torch .* built for CUDA 13\.0; accepted"
    ):
        check_torch("cuda:0", nvml)


@pytest.mark.parametrize(
    ("driver", "capability", "offered"),
    [
        (12080, (8, 6), "pip install .*cu126"),
        (12080, (12, 0), "a build of torch for CUDA 12"),
        (11080, (8, 6), ""),
    ],
)
def test_the_build_for_an_older_driver_is_named_where_it_has_code_for_the_card(
    driver: int, capability: tuple[int, int], offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    nvml = FakeNvml(FakeGpu("GPU-a", capability=capability))
    nvml.cuda_version = driver
    accepted = ", ".join(filter(None, ["accepted: a newer driver", offered, "or cpu$"]))
    with pytest.raises(FailedPreconditionError, match=accepted):
        check_torch("cuda:0", nvml)


@pytest.mark.parametrize(
    ("architectures", "capability", "is_accepted"),
    [
        (["sm_75", "sm_80", "sm_86", "sm_90"], (8, 9), True),  # the same major, a higher minor
        (["sm_75", "sm_80", "sm_86", "sm_90"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),  # which the driver compiles
        (["sm_80", "sm_90a", "compute_90a"], (9, 0), True),
        (["sm_80", "sm_90a", "compute_90a"], (10, 0), False),
        (["sm_80", "sm_120f"], (12, 1), True),
        (["sm_80", "sm_100"], (9, 0), False),
    ],
)
def test_a_card_that_torch_has_no_code_for_is_told(
    architectures: list[str],
    capability: tuple[int, int],
    is_accepted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    nvml = FakeNvml(FakeGpu("GPU-a", name="RTX", capability=capability))
    if is_accepted:
        check_torch("cuda:0", nvml)
        return
    named = rf"cuda:0, a RTX of compute capability {capability[0]}\.{capability[1]}, but torch"
    with pytest.raises(FailedPreconditionError, match=rf"{named} .* has no code for it; accepted: cpu"):
        check_torch("cuda:0", nvml)


@pytest.mark.parametrize(("capability", "is_accepted"), [((6, 1), False), ((7, 0), False), ((7, 5), True)])
def test_a_card_that_is_too_old_is_told(
    capability: tuple[int, int], is_accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    architectures = ["sm_75", "sm_80", "sm_100", "sm_120a", "compute_120"]
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    nvml = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b", name="GTX 1050 Ti", capability=capability))
    if is_accepted:
        check_torch("cuda:1", nvml)
        return
    nvml.cuda_version = 12040  # a newer driver would not help
    named = rf"cuda:1, a GTX 1050 Ti of compute capability {capability[0]}\.{capability[1]}, but torch"
    with pytest.raises(FailedPreconditionError, match=rf"{named} .* from 7\.5 on; accepted: .*\+cu126 "):
        check_torch("cuda:1", nvml)


def test_a_card_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UnavailableError, match="cuda:1: NVML no longer shows it"):
        check_torch("cuda:1", FakeNvml(FakeGpu("GPU-a")))


def test_a_driver_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UnavailableError, match="cuda:0: NVML"):
        check_torch("cuda:0", FakeNvml(has_driver=False))
