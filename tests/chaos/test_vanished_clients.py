"""A client that disappears takes its work along within a step or a tile; a slow one holds nobody up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from acestage import Client
from acestage.generation import AudioChunk, Generation
from services.runtime.devices.fake_device.spec import Fault, strike_count
from tests.chaos.chaos_stack import DEVICE, SONG_S, ChaosStack, anew, steady
from tests.running_stack import wait_until

STEP_S = 0.4
"""How long a step or a tile takes here."""

SCRIPT = """
import sys
from acestage import Client
for event in Client(sys.argv[1]).stream("piano", duration_s=float(sys.argv[2]), step_count=int(sys.argv[3])):
    print(type(event).__name__, getattr(event, "stage", ""), getattr(event, "position", ""), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a client disappears.

    Attributes:
        faults: what makes the moment last.
        event: what the client hears last.
        steps: of its song.
        behind: other jobs that have the device and all the orchestrator's places before.
    """

    name: str
    faults: tuple[Fault, ...]
    event: str
    steps: int = 1
    behind: int = 0


SLOW_DIT = steady("dit", STEP_S, 100)
SLOW_VAE = steady("vae", STEP_S, 100)
MOMENTS = (
    Moment("queued", SLOW_DIT, "JobQueued  1", behind=4),
    Moment("waiting", SLOW_DIT, "StageWaiting text_encoder 1", behind=1),
    Moment("text_encoder", (Fault("text_encoder", "slow", seconds=2.0),), "StageStarted text_encoder"),
    Moment("dit", SLOW_DIT, "StageProgress dit", steps=100),
    Moment("vae", SLOW_VAE, "StageStarted vae"),
    Moment("audio", SLOW_VAE, "AudioChunk"),
)


@contextmanager
def client_process(chaos: ChaosStack, moment: Moment) -> Iterator[subprocess.Popen[bytes]]:
    """A client in a process of its own, which has just heard the moment's event."""
    command = [sys.executable, "-c", SCRIPT, chaos.stack.target, str(anew(60)), str(moment.steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        try:
            heard = iter(client.stdout.readline, b"")
            assert any(line.decode().startswith(moment.event) for line in heard)
            yield client
        finally:
            client.kill()


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_the_work_of_a_killed_client_ends_within_a_step(small_device: ChaosStack, moment: Moment) -> None:
    small_device.fail(*moment.faults)
    others = [small_device.job(duration_s=10, step_count=100) for _ in range(moment.behind)]
    for other in others[:1]:
        small_device.until_struck()
        assert other.result is None
    wait_until(lambda: small_device.status().queue.running_count == moment.behind, "the others are there")
    with client_process(small_device, moment) as client:
        client.kill()
        client.wait(10)
        struck = strike_count(small_device.run_dir, DEVICE)
        if others:
            wait_until(lambda: _job_count(small_device) == moment.behind, "the job is gone", 5)
            for other in others:
                other.disappear()
        small_device.until_quiet(10)
        assert strike_count(small_device.run_dir, DEVICE) <= struck + 2
    small_device.fail()
    assert small_device.song().tracks[0].duration_s == SONG_S


@pytest.mark.parametrize("moment", [MOMENTS[1], MOMENTS[3], MOMENTS[5]], ids=lambda moment: moment.name)
def test_the_work_of_a_client_that_closes_its_channel_ends_within_a_step(
    small_device: ChaosStack, moment: Moment
) -> None:
    small_device.fail(*moment.faults)
    others = [small_device.job(duration_s=10, step_count=100) for _ in range(moment.behind)]
    if others:
        small_device.until_struck()
    job = small_device.job(duration_s=60, step_count=moment.steps)
    kind, _, stage = moment.event.partition(" ")
    job.until(
        lambda event: type(event).__name__ == kind and getattr(event, "stage", "") in stage, moment.event
    )
    struck = strike_count(small_device.run_dir, DEVICE)
    for one in (job, *others):
        one.disappear()
    assert job.outcome(5) == "CANCELLED"
    small_device.until_quiet(10)
    assert strike_count(small_device.run_dir, DEVICE) <= struck + 2
    small_device.fail()
    assert small_device.song().tracks[0].duration_s == SONG_S


def test_a_listener_that_reads_nothing_does_not_extend_a_hold(small_device: ChaosStack) -> None:
    """Half a minute of audio is 11 MB, far more than gRPC keeps for who does not read."""
    attentive = small_device.song(duration_s=30)
    done_count = _done_count(small_device)
    with Client(small_device.stack.target) as client:
        events = client.stream("piano", duration_s=anew(30), step_count=1, seed=1)
        next(events)
        wait_until(lambda: _done_count(small_device) > done_count, "it is done though nobody listens", 60)
        assert [lease.is_idle for lease in small_device.leases()] == [True]
        other = small_device.song()
        read_at = datetime.now(UTC)
        heard = list(events)
    slow = heard[-1]
    assert isinstance(slow, Generation)
    assert slow.tracks[0].samples_sha256 == attentive.tracks[0].samples_sha256
    assert sum(isinstance(event, AudioChunk) for event in heard) > 10
    assert slow.stages[-1].ended_at < other.stages[0].started_at < read_at


def _done_count(chaos: ChaosStack) -> int:
    return chaos.status().queue.succeeded_count


def _job_count(chaos: ChaosStack) -> int:
    queue = chaos.status().queue
    return queue.running_count + queue.queued_count
