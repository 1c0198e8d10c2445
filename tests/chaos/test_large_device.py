"""A device that has room for all stages: nobody leaves, and nothing is loaded twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acestage.generation import StageStarted
from services.runtime.devices.fake_device.spec import Fault
from tests.chaos.chaos_stack import GIB, ChaosStack
from tests.running_stack import wait_until

TOTAL_BYTES = 16 * GIB
PATIENT_TTL_S = 20.0
"""Long enough for the orchestrator to start again on a busy machine before anybody gives up its lease."""


@pytest.fixture(scope="module")
def large_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosStack]:
    folder = tmp_path_factory.mktemp("large-device")
    ttl = f"{PATIENT_TTL_S:g}"
    with ChaosStack.start(folder, total_bytes=TOTAL_BYTES, ACESTAGE_LEASE_TTL=ttl) as stack:
        yield stack


def starts_of(chaos: ChaosStack, **options: int) -> list[StageStarted]:
    starts: list[StageStarted] = []
    chaos.song(**options, on_event=lambda e: starts.append(e) if isinstance(e, StageStarted) else None)
    return starts


def test_all_stages_stay_and_the_second_song_finds_them_there(large_device: ChaosStack) -> None:
    first, second = starts_of(large_device, seed=1), starts_of(large_device, seed=2)
    assert [start.was_warm for start in second] == [True] * 3
    assert [start.fencing_token for start in second] == [start.fencing_token for start in first]
    status = large_device.status()
    assert sorted(lease.holder.partition("@")[0] for lease in status.leases) == ["dit", "text_encoder", "vae"]
    (device,) = status.ledger_devices
    assert not device.is_exclusive
    assert device.leased_bytes == sum(lease.vram_bytes for lease in status.leases) <= TOTAL_BYTES


def test_the_crash_of_one_stage_leaves_the_others_warm(large_device: ChaosStack) -> None:
    large_device.song()
    large_device.fail(Fault("dit", "crash"))
    job = large_device.job(duration_s=10, step_count=1)
    assert job.outcome(30) == "WORKER_CRASHED"
    starts = starts_of(large_device)
    assert [start.was_warm for start in starts] == [True, False, True]


def test_who_wants_all_of_it_gets_it(large_device: ChaosStack) -> None:
    large_device.song()
    assert large_device.can_be_had(10)
    wait_until(lambda: large_device.leases() == (), "nothing is held", 10)
    assert [start.was_warm for start in starts_of(large_device)] == [False] * 3


def test_a_crash_of_the_orchestrator_leaves_all_weights_where_they_are(large_device: ChaosStack) -> None:
    """The new ledger grants nothing for one TTL, and takes over what the holders report meanwhile."""
    before = starts_of(large_device)
    workers = {worker.pid for worker in large_device.workers()}
    large_device.service("orchestrator").kill()
    wait_until(lambda: _takes_over(large_device, 3), "the new ledger knows the three leases", PATIENT_TTL_S)
    assert large_device.status().grace_remaining_s > 0
    after = starts_of(large_device)
    assert [start.was_warm for start in after] == [True] * 3
    assert [start.fencing_token for start in after] == [start.fencing_token for start in before]
    assert {worker.pid for worker in large_device.workers()} == workers


def _takes_over(chaos: ChaosStack, lease_count: int) -> bool:
    return chaos.stack.is_serving() and len(chaos.leases()) == lease_count
