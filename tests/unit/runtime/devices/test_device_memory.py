"""Bytes of devices, real and simulated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acestage.errors import UnavailableError
from services.runtime.devices.cuda_devices import VISIBLE
from services.runtime.devices.device_memory import DeviceMemory, process_device_bytes, read_device_memory
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, note_usage
from tests.fake_nvml import FakeGpu, FakeNvml
from tests.fake_proc import write_machine, write_process, write_worker

MIB = 1 << 20
GIB = 1 << 30
NOWHERE = Path("/nowhere")


@pytest.fixture(autouse=True)
def every_device_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine of 24 GiB with 10 GiB available, with processes that are none of ours."""
    write_machine(tmp_path, total_bytes=24 * GIB, available_bytes=10 * GIB, cpu_name="Fake CPU @ 3 GHz")
    write_process(tmp_path, 1, command=("init",), rollup={"Pss": 8 * GIB})
    write_process(tmp_path, 2, command=("vi", "-m", "notes"), parent_pid=1, rollup={"Pss": 6 * GIB})
    write_process(tmp_path, 3)  # a kernel thread has no command line
    return tmp_path


def test_the_cpu_is_the_machine(proc: Path) -> None:
    expected = DeviceMemory("cpu", "Fake CPU @ 3 GHz", 24 * GIB, 10 * GIB)
    assert read_device_memory("cpu", None, NOWHERE, proc=proc) == expected


def test_a_cpu_without_a_name_is_a_cpu(tmp_path: Path) -> None:
    write_machine(tmp_path, total_bytes=GIB, available_bytes=GIB, cpu_name=None)
    assert read_device_memory("cpu", None, NOWHERE, proc=tmp_path).name == "CPU"


def test_this_machine_can_be_read() -> None:
    found = read_device_memory("cpu", None, NOWHERE)
    assert found.total_bytes == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    assert 0 < found.free_bytes < found.total_bytes


def test_of_a_simulated_cpu_device_only_workers_use_any(proc: Path) -> None:
    empty = read_device_memory("cpu", 4 * GIB, NOWHERE, proc=proc)
    assert (empty.total_bytes, empty.free_bytes) == (4 * GIB, 4 * GIB)
    write_worker(proc, 101, 100, "cpu", pss_bytes=512 * MIB)
    write_worker(proc, 202, 200, "cpu", pss_bytes=GIB)
    write_worker(proc, 303, 300, "cuda:0", pss_bytes=2 * GIB)
    used = read_device_memory("cpu", 4 * GIB, NOWHERE, proc=proc)
    assert (used.total_bytes, used.free_bytes) == (4 * GIB, 4 * GIB - 512 * MIB - GIB)


def test_a_simulated_device_never_has_less_than_nothing(proc: Path) -> None:
    write_worker(proc, 101, 100, "cpu", pss_bytes=5 * GIB)
    assert read_device_memory("cpu", 4 * GIB, NOWHERE, proc=proc).free_bytes == 0


def test_a_simulated_device_has_no_more_than_the_real_one(proc: Path) -> None:
    real = read_device_memory("cpu", None, NOWHERE, proc=proc)
    assert read_device_memory("cpu", 24 * GIB, NOWHERE, proc=proc) == real
    assert read_device_memory("cpu", 80 * GIB, NOWHERE, proc=proc) == real
    assert read_device_memory("cpu", 16 * GIB, NOWHERE, proc=proc).free_bytes == 10 * GIB


def test_a_gpu_is_what_the_driver_says(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(
        FakeGpu("GPU-a", 8 * GIB, 7 * GIB, name="Fake 1070"), FakeGpu("GPU-b", 4 * GIB, GIB, name="Fake 1650")
    )
    assert read_device_memory("cuda:1", None, NOWHERE, nvml=nvml, proc=proc) == DeviceMemory(
        "cuda:1", "Fake 1650", 4 * GIB, GIB
    )
    monkeypatch.setenv(VISIBLE, "1")
    assert read_device_memory("cuda:0", None, NOWHERE, nvml=nvml, proc=proc).name == "Fake 1650"
    assert nvml.open_count == 0


def test_of_a_simulated_gpu_only_workers_use_any(proc: Path) -> None:
    write_worker(proc, 101, 100, "cuda:0", pss_bytes=0)
    write_worker(proc, 202, 200, "cuda:1", pss_bytes=0)
    processes: dict[int, int | None] = {101: GIB, 202: 2 * GIB, 999: 9 * GIB, 998: None}
    nvml = FakeNvml(FakeGpu("GPU-a", 24 * GIB, 12 * GIB, processes), FakeGpu("GPU-b", 24 * GIB, 2 * GIB))
    first = read_device_memory("cuda:0", 4 * GIB, NOWHERE, nvml=nvml, proc=proc)
    assert (first.total_bytes, first.free_bytes) == (4 * GIB, 3 * GIB)
    second = read_device_memory("cuda:1", 4 * GIB, NOWHERE, nvml=nvml, proc=proc)
    assert (second.total_bytes, second.free_bytes) == (4 * GIB, 2 * GIB)


@pytest.mark.parametrize("nvml", [FakeNvml(FakeGpu("GPU-a")), FakeNvml(has_driver=False)])
def test_a_gpu_that_does_not_answer_is_named(nvml: FakeNvml, proc: Path) -> None:
    with pytest.raises(UnavailableError, match="cuda:1: NVML"):
        read_device_memory("cuda:1", None, NOWHERE, nvml=nvml, proc=proc)


def test_what_the_driver_reserves_is_not_ours_where_it_tells() -> None:
    nvml = FakeNvml(FakeGpu("GPU-a", total_bytes=4 * GIB, free_bytes=3 * GIB, reserved_bytes=200 * MIB))
    found = read_device_memory("cuda:0", None, NOWHERE, nvml=nvml)
    assert (found.total_bytes, found.free_bytes) == (4 * GIB - 200 * MIB, 3 * GIB)
    nvml.tells_reserved = False
    found = read_device_memory("cuda:0", None, NOWHERE, nvml=nvml)
    assert (found.total_bytes, found.free_bytes) == (4 * GIB, 3 * GIB)


def test_bytes_of_processes_as_far_as_the_driver_tells() -> None:
    gpu = FakeGpu("GPU-a", processes={5: MIB, 6: None})
    assert process_device_bytes("cuda:0", nvml=FakeNvml(gpu)) == {5: MIB, 6: 0}
    assert process_device_bytes("cuda:0", nvml=FakeNvml(gpu, tells_processes=False)) == {}
    assert process_device_bytes("cuda:1", nvml=FakeNvml(gpu)) == {}
    assert process_device_bytes("cpu", nvml=FakeNvml(has_driver=False)) == {}


def test_the_message_has_every_field() -> None:
    message = DeviceMemory("cuda:0", "Fake", 2, 1).to_pb()
    assert (message.device, message.name, message.total_bytes, message.free_bytes) == ("cuda:0", "Fake", 2, 1)


def test_a_fake_device_has_what_its_file_says_less_what_living_processes_use(tmp_path: Path) -> None:
    FakeDeviceSpec(total_bytes=100).write(tmp_path, "fake:0")
    note_usage(tmp_path, "fake:0", os.getpid(), 30)
    note_usage(tmp_path, "fake:0", 2**22 + 1, 50)  # above every process id that Linux gives: nobody
    memory = read_device_memory("fake:0", None, tmp_path)
    assert (memory.total_bytes, memory.free_bytes) == (100, 70)
    with pytest.raises(UnavailableError, match="fake:1"):
        read_device_memory("fake:1", None, tmp_path)
