"""What a client reads from a status message."""

from __future__ import annotations

from datetime import timedelta

import pytest

from acestage.generation import ProcessMemory
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.status import DeviceStatus, EndedJob, LedgerDevice, StageModel, Waiter, status_from_pb
from tests.statuses import MIB, NOW, status_message

STATUS = status_from_pb(status_message(), NOW)


def test_a_device_is_there_once_with_what_is_used() -> None:
    gpu = DeviceStatus("cuda:0", "NVIDIA GeForce GTX 1650", 4096 * MIB, 3500 * MIB, 596 * MIB)
    assert STATUS.devices == (gpu,)
    assert [stage.device_memory for stage in STATUS.stages] == [gpu, gpu, None]


def test_the_ledger() -> None:
    assert STATUS.ledger_devices == (
        LedgerDevice("cuda:0", 4000 * MIB, 3705 * MIB, is_exclusive=True),
        LedgerDevice("cuda:1", 24576 * MIB, 0, is_exclusive=False),
    )
    assert [(lease.state, lease.is_idle) for lease in STATUS.leases] == [
        ("active", False),
        ("active", True),
        ("revoking", True),
    ]
    dit = STATUS.leases[0]
    assert (dit.holder, dit.vram_bytes, dit.fencing_token) == ("dit@studio:4700", 3005 * MIB, 2**32 + 7)
    assert (dit.age_s, dit.remaining_s) == (12, 8)
    assert dit.granted_at == NOW - timedelta(seconds=12)
    assert STATUS.waiters == (Waiter("cuda:0", "vae@studio:4800", 321 * MIB, 1, 3.25),)
    assert STATUS.grace_remaining_s == 2.5


def test_a_clock_behind_the_orchestrators_makes_no_negative_age() -> None:
    assert status_from_pb(status_message(), NOW - timedelta(hours=1)).leases[0].age_s == 0


def test_stages_and_processes() -> None:
    text_encoder, dit, vae = STATUS.stages
    assert [stage.worker_state for stage in STATUS.stages] == ["warm", "busy", ""]
    assert (text_encoder.quantization, dit.quantization) == ("none", "int8")
    assert dit.models == (StageModel("acestep-v15-turbo", "bfloat16", 3005 * MIB),)
    assert (dit.placed_model, vae.models, vae.placed_model) == ("acestep-v15-turbo", (), "")
    assert (vae.is_serving, vae.error, vae.processes) == (False, "it does not answer within 2 s", ())
    assert dit.processes[-1] == ProcessMemory(
        "dit/worker", 4711, 3200 * MIB, 6400 * MIB, anonymous_bytes=800 * MIB, device_bytes=3333 * MIB
    )


def test_jobs() -> None:
    assert [job.outcome for job in STATUS.recent_jobs] == ["WORKER_CRASHED", "succeeded", "cancelled"]
    expected = EndedJob("job000000002", NOW - timedelta(seconds=65), 4.25, "succeeded", 90, 2)
    assert STATUS.recent_jobs[1] == expected


def test_the_status_of_an_older_orchestrator_is_empty_where_it_says_nothing() -> None:
    status = status_from_pb(pb.GetStatusResponse(version="0"), NOW)
    assert (status.devices, status.ledger_devices, status.recent_jobs) == ((), (), ())
    assert status.grace_remaining_s == pytest.approx(0)
