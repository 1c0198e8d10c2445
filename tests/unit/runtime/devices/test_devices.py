"""Which device, which data type."""

from __future__ import annotations

import functools

import pynvml
import pytest

from acestage.errors import FailedPreconditionError
from services.runtime.devices import devices
from services.runtime.devices.cuda_devices import cuda_handles
from services.runtime.processes import cpu_features
from tests.fake_nvml import FakeGpu, FakeNvml


def with_gpus(
    monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], name: str = "NVIDIA GeForce RTX 2060"
) -> None:
    monkeypatch.setattr(devices, "_cuda_device_count", lambda: len(capabilities))
    monkeypatch.setattr(devices, "_compute_capability", lambda device: capabilities[int(device[-1])])
    monkeypatch.setattr(devices, "_name", lambda device: name)


def with_cpu_flags(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(cpu_features, "cpu_features", lambda: " ".join(flags))


@pytest.mark.parametrize(
    ("gpu_count", "choice", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (1, "cuda", "cuda:0"),
    ],
)
def test_auto_takes_the_first_gpu_and_else_the_cpu(
    monkeypatch: pytest.MonkeyPatch, gpu_count: int, choice: str, device: str
) -> None:
    with_gpus(monkeypatch, *[(8, 6)] * gpu_count)
    assert devices.resolve_device(choice) == device


@pytest.mark.parametrize(("gpu_count", "choice"), [(0, "cuda"), (1, "cuda:1")])
def test_a_gpu_that_is_not_there_is_refused_with_what_is(
    monkeypatch: pytest.MonkeyPatch, gpu_count: int, choice: str
) -> None:
    with_gpus(monkeypatch, *[(8, 6)] * gpu_count)
    with pytest.raises(FailedPreconditionError, match="accepted here: cpu"):
        devices.resolve_device(choice)


def with_fault(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Has a driver that shows a GPU answer `call` with NVML's error of that code."""
    nvml = FakeNvml(FakeGpu("GPU-0"))

    def fail(*arguments: object) -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(nvml, call, fail)
    monkeypatch.setattr(devices, "cuda_handles", functools.partial(cuda_handles, nvml))


FAULTS = [
    ("nvmlInit", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "version mismatch"),
    ("nvmlDeviceGetHandleByIndex", pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
]


@pytest.mark.parametrize(("call", "code", "words"), FAULTS)
def test_a_driver_that_fails_is_told(
    call: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_fault(monkeypatch, call, code)
    assert devices.resolve_device("auto") == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert words in record.getMessage()
    with pytest.raises(FailedPreconditionError, match=rf"{words}.*accepted here: cpu$"):
        devices.resolve_device("cuda")


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_a_driver_computes_on_the_cpu_and_says_nothing(
    code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_fault(monkeypatch, "nvmlInit", code)
    assert devices.resolve_device("auto") == "cpu"
    assert caplog.records == []
    with pytest.raises(FailedPreconditionError, match=r"0 CUDA device\(s\); accepted here: cpu$"):
        devices.resolve_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), "float16"), ((6, 1), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_gpus_compute_in_bfloat16_where_they_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str
) -> None:
    with_gpus(monkeypatch, capability)
    assert devices.resolve_dtype("auto", "cuda:0", "bfloat16") == dtype


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("NVIDIA GeForce GTX 1650", "float32"),
        ("NVIDIA GeForce GTX 1660 Ti with Max-Q Design", "float32"),
        ("NVIDIA GeForce MX450", "float32"),
        ("NVIDIA T600 Laptop GPU", "float32"),
        ("Quadro T2000", "float32"),
        ("NVIDIA CMP 30HX", "float32"),
        ("NVIDIA GeForce RTX 2060", "float16"),
        ("Tesla T4", "float16"),
        ("Quadro RTX 5000", "float16"),
    ],
)
def test_cards_that_fail_at_convolutions_in_float16_do_them_in_float32(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    with_gpus(monkeypatch, (7, 5), name=name)
    assert devices.resolve_dtype("auto", "cuda:0", "bfloat16", convolves=True) == dtype
    assert devices.resolve_dtype("auto", "cuda:0", "bfloat16") == "float16"
    assert devices.resolve_dtype("float16", "cuda:0", "bfloat16", convolves=True) == "float16"


@pytest.mark.parametrize(
    ("flags", "stored", "dtype"),
    [
        (["amx_bf16"], "bfloat16", "bfloat16"),
        (["avx512_bf16"], "bfloat16", "bfloat16"),
        (["avx2"], "bfloat16", "float32"),
        (["amx_bf16"], "float32", "float32"),
    ],
)
def test_the_cpu_computes_in_the_stored_type_where_it_can(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], stored: str, dtype: str
) -> None:
    with_cpu_flags(monkeypatch, *flags)
    assert devices.resolve_dtype("auto", "cpu", stored) == dtype


def test_a_chosen_type_is_taken() -> None:
    assert devices.resolve_dtype("float16", "cpu", "float32") == "float16"
