"""Which of NVML's devices is "cuda:N"."""

from __future__ import annotations

import pynvml
import pytest

from acestage.errors import FailedPreconditionError
from services.runtime.devices.cuda_devices import VISIBLE, cuda_handles, cuda_index, driver_awake
from tests.fake_nvml import FakeGpu, FakeNvml

UUIDS = ("GPU-aaaa1111", "GPU-bbbb2222", "GPU-bbbb3333")


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml(*map(FakeGpu, UUIDS))


def visible(nvml: FakeNvml) -> list[int]:
    """NVML's indices, in CUDA's order."""
    with cuda_handles(nvml) as handles:
        return [UUIDS.index(handle.uuid) for handle in handles]


def test_all_devices_are_visible_unless_the_variable_says_otherwise(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible(nvml) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        ("", []),
        (" ", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 1 ", [2, 1]),
        ("-1", []),
        ("0,-1,1", [0]),
        ("1,3,0", [1]),
        ("GPU-bbbb2222", [1]),
        ("GPU-a", [0]),
        ("GPU-bbbb3,0,GPU-bbbb2", [2, 0, 1]),
        ("0,GPU-bbbb,1", [0]),  # fits two devices
        ("GPU-cccc,0", []),
        ("NoDevFiles", []),
        ("0,none,1", [0]),
        ("0,,1", [0]),
    ],
)
def test_the_variable_selects_and_orders(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, value: str, indices: list[int]
) -> None:
    monkeypatch.setenv(VISIBLE, value)
    assert visible(nvml) == indices


@pytest.mark.parametrize("value", ["MIG-aaaa1111/1/0", "0,MIG-b", "0,0", "GPU-aaaa,0"])
def test_what_cannot_be_mapped_is_refused_with_what_was_given(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VISIBLE, value)
    with pytest.raises(FailedPreconditionError, match=f"{VISIBLE}: is '{value}'"):
        visible(nvml)
    assert nvml.open_count == 0


def test_nvml_is_closed_again(nvml: FakeNvml) -> None:
    with cuda_handles(nvml):
        assert nvml.open_count == 1
    assert nvml.open_count == 0


def test_a_machine_without_a_driver_says_so() -> None:
    with pytest.raises(pynvml.NVMLError, match="Driver"), cuda_handles(FakeNvml(has_driver=False)):
        pass


def test_the_index_of_a_device() -> None:
    assert cuda_index("cuda:11") == 11


@pytest.mark.parametrize(("device", "open_count"), [("cuda:0", 1), ("cpu", 0), ("fake:0", 0)])
def test_the_driver_of_a_cuda_device_is_kept_awake(
    nvml: FakeNvml, device: str, open_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)

    with driver_awake(device, nvml):
        assert nvml.open_count == open_count
        if open_count:
            assert visible(nvml) == [0, 1, 2]  # who looks meanwhile does not end it
        assert nvml.open_count == open_count
    assert nvml.open_count == 0
