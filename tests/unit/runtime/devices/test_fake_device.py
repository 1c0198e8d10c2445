"""The device for tests: what it counts, what it refuses, and what its faults do."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import torch

from services.runtime.devices.device_lock import DeviceLock
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, Fault, due_fault, note_usage, used_bytes
from services.runtime.devices.fake_device.usage import FakeUsage
from tests.free_devices import is_free
from tests.running_stack import wait_until

DEVICE = "fake:0"
MIB = 1 << 20


def usage_of(run_dir: Path, *faults: Fault, total_mib: int = 64) -> FakeUsage:
    FakeDeviceSpec(total_mib * MIB, faults).write(run_dir, DEVICE)
    return FakeUsage(DEVICE, run_dir, "vae")


def test_a_value_that_is_not_true_is_not_taken_for_true(tmp_path: Path) -> None:
    usage = usage_of(tmp_path)
    with usage.counted():
        assert not torch.isfinite(torch.tensor([1.0, float("nan")])).all().item()


def test_weights_that_placing_did_not_copy_count_once_they_are_used(tmp_path: Path) -> None:
    weights = torch.ones(MIB)
    usage = usage_of(tmp_path)
    with usage.counted():
        usage.start_job()
        weights.sum()
    assert usage.peak_bytes() == weights.nbytes + 4


def test_no_more_can_be_allocated_than_the_lease_allows(tmp_path: Path) -> None:
    usage = usage_of(tmp_path)
    usage.cap(10 * MIB, 2 * MIB)
    with usage.counted():
        kept = torch.empty(8 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError, match=f"{10 * MIB} allowed"):
            torch.empty(1, dtype=torch.uint8)
        del kept
        torch.empty(8 * MIB, dtype=torch.uint8)


def test_what_others_use_is_not_free(tmp_path: Path) -> None:
    usage = usage_of(tmp_path, total_mib=10)
    child = os.fork()
    if child == 0:
        with usage.counted():
            kept = torch.empty(8 * MIB, dtype=torch.uint8)
            time.sleep(60)
        os._exit(len(kept))
    try:
        wait_until(lambda: used_bytes(tmp_path, DEVICE) == 8 * MIB, "the other process has its bytes", 10)
        with usage.counted(), pytest.raises(torch.OutOfMemoryError, match=f"beside {8 * MIB} of others"):
            torch.empty(4 * MIB, dtype=torch.uint8)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert used_bytes(tmp_path, DEVICE) == 0


def test_a_figure_that_is_only_half_written_does_not_count(tmp_path: Path) -> None:
    note_usage(tmp_path, DEVICE, os.getpid(), 5)
    (tmp_path / "fake-0.usage" / ".x.part").write_text("7")
    assert used_bytes(tmp_path, DEVICE) == 5


def test_a_fault_strikes_as_often_as_it_says_and_at_its_place(tmp_path: Path) -> None:
    fault = Fault("vae", "slow", at=2, times=2)
    FakeDeviceSpec(MIB, (fault,)).write(tmp_path, DEVICE)
    found = [due_fault(tmp_path, DEVICE, stage, at) for stage in ("dit", "vae") for at in (1, 2, 2, 2, 3)]
    assert found == [None] * 6 + [fault, fault, None, None]
    FakeDeviceSpec(MIB, (fault,)).write(tmp_path, DEVICE)
    assert due_fault(tmp_path, DEVICE, "vae", 2) == fault


def test_memory_runs_out_on_command(tmp_path: Path) -> None:
    usage = usage_of(tmp_path, Fault("vae", "out_of_memory", at=2))
    usage.start_job()
    with pytest.raises(torch.OutOfMemoryError, match="on command"):
        usage.checkpoint()


def test_a_device_lingers_after_its_process_though_the_end_of_that_is_seen(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        with DeviceLock(tmp_path, DEVICE, fencing_token=1, timeout_s=5):
            usage_of(tmp_path, Fault("vae", "linger", seconds=1.0)).start_job()
            os._exit(0)
    theirs.close()
    os.waitpid(child, 0)
    begun = time.monotonic()
    ours.settimeout(5)
    assert ours.recv(1) == b""
    assert not is_free(tmp_path, DEVICE)
    wait_until(lambda: is_free(tmp_path, DEVICE), "the device is free", 10)
    assert time.monotonic() - begun > 0.5
    ours.close()
