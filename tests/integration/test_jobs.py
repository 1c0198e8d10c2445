"""Jobs outlive their listeners: attached to late, twice, afterwards; cancelled; and never held up."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from acestage import Client
from acestage.errors import AcestageError, CancelledError, NotFoundError
from acestage.generation import AudioChunk, Generation, GenerationEvent, StageProgress
from tests.running_stack import RunningStack, wait_until

ENDLESS = {"duration_s": 300, "step_count": 200}
"""Minutes of work: a test that waited for its end would time out."""


def shape(events: Iterable[GenerationEvent]) -> list[Any]:
    """`events`, comparable: samples and tracks by their bytes."""
    found: list[Any] = []
    for event in events:
        match event:
            case AudioChunk(item_index, start_sample, samples):
                found.append((item_index, start_sample, samples.tobytes()))
            case Generation():
                tracks = [(track.samples_sha256, track.audio.tobytes()) for track in event.tracks]
                found.append((event.job_id, event.settings, event.stages, event.total_s, tracks))
            case _:
                found.append(event)
    return found


def until(events: Iterable[GenerationEvent], kind: type) -> None:
    """Reads on to an event of that kind."""
    assert any(isinstance(event, kind) for event in events)


def test_late_second_and_later_listeners_hear_the_same_from_the_first_event_on(
    turbo_stack: RunningStack,
) -> None:
    with turbo_stack.client() as caller, turbo_stack.client() as other:
        first: list[GenerationEvent] = []
        stream = caller.stream("piano", duration_s=30, step_count=2, seed=5, batch_size=2)
        for event in stream:
            first.append(event)
            if isinstance(event, AudioChunk):
                break
        job_id = first[0].job_id  # type: ignore[union-attr]
        late = other.attach(job_id)
        heard_late = list(itertools.islice(late, 3))
        twice = list(other.attach(job_id))
        first.extend(stream)
        heard_late.extend(late)
        after = list(other.attach(job_id))
    assert isinstance(first[-1], Generation)
    assert shape(first) == shape(heard_late) == shape(twice) == shape(after)
    chunks = [event.samples for event in after if isinstance(event, AudioChunk) and event.item_index == 1]
    track = first[-1].tracks[1]
    assert np.array_equal(np.concatenate(chunks) * np.float32(track.gain), track.audio)


def test_a_detached_job_outlives_its_killed_client(turbo_stack: RunningStack) -> None:
    code = (
        "import sys; from acestage import Client\n"
        "options = {'duration_s': 20, 'step_count': 100, 'seed': 3, 'detached': True}\n"
        "for event in Client(sys.argv[1]).stream('piano', **options):\n"
        "    print(type(event).__name__, getattr(event, 'job_id', ''), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, turbo_stack.target], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        job_id = caller.stdout.readline().decode().split()[1]
        assert any(b"StageProgress" in line for line in caller.stdout)
        caller.send_signal(signal.SIGKILL)
    with turbo_stack.client() as client:
        *_, generation = client.attach(job_id)
        alone = client.generate("piano", duration_s=20, step_count=100, seed=3)
    assert isinstance(generation, Generation)
    assert generation.job_id == job_id
    assert generation.tracks[0].samples_sha256 == alone.tracks[0].samples_sha256


def test_submit_returns_at_once_and_cancel_stops_the_job(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        job_id = client.submit("piano", **ENDLESS)  # type: ignore[arg-type]
        events = client.attach(job_id)
        until(events, StageProgress)
        events.close()
        assert not turbo_stack.is_idle()
        assert client.cancel(job_id) == "cancelled"
        wait_until(turbo_stack.is_idle, "the job is gone", 10)
        assert client.cancel(job_id) == "cancelled"
        for _ in range(2):
            with pytest.raises(CancelledError, match=f"job {job_id} was cancelled"):
                list(client.attach(job_id))


def test_a_queued_job_can_be_cancelled(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        running, queued = (client.submit("piano", **ENDLESS) for _ in range(2))  # type: ignore[arg-type]
        assert client.cancel(queued) == "cancelled"
        assert client.status().queue.running_count == 1
        assert client.cancel(running) == "cancelled"
    wait_until(turbo_stack.is_idle, "both jobs are gone", 10)


@pytest.mark.parametrize("way", ["its call ends", "it is cancelled"])
def test_whoever_listens_to_a_cancelled_job_hears_of_it(turbo_stack: RunningStack, way: str) -> None:
    errors: list[AcestageError] = []
    attached = threading.Event()

    def listen(client: Client, job_id: str) -> None:
        try:
            for event in client.attach(job_id):
                if isinstance(event, StageProgress):
                    attached.set()
        except AcestageError as error:
            errors.append(error)

    with turbo_stack.client() as client, turbo_stack.client() as other:
        stream = client.stream("piano", **ENDLESS)  # type: ignore[arg-type]
        job_id = next(stream).job_id  # type: ignore[union-attr]
        listener = threading.Thread(target=listen, args=(other, job_id))
        listener.start()
        assert attached.wait(30)
        if way == "its call ends":
            stream.close()
        else:
            assert client.cancel(job_id) == "cancelled"
            with pytest.raises(CancelledError):
                list(stream)
        listener.join(20)
    assert [type(error) for error in errors] == [CancelledError]
    wait_until(turbo_stack.is_idle, "the job is gone", 10)


def test_an_unknown_job_is_named_with_how_long_jobs_are_kept(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        for ask in (lambda: client.cancel("nope"), lambda: next(client.attach("nope"))):
            with pytest.raises(NotFoundError, match=r"'nope'.*15 min"):
                ask()


def test_a_slow_listener_delays_neither_the_job_nor_a_fast_one(turbo_stack: RunningStack) -> None:
    """A minute of audio is 23 MB: far more than gRPC keeps for a listener that does not read."""
    with turbo_stack.client() as slow_client, turbo_stack.client() as client:
        job_id = client.submit("piano", duration_s=60, step_count=1, seed=1)
        slow = slow_client.attach(job_id)
        next(slow)
        *_, fast = client.attach(job_id)
        assert client.cancel(job_id) == "succeeded"
        *_, generation = slow
    assert isinstance(fast, Generation)
    assert isinstance(generation, Generation)
    assert generation.tracks[0].samples_sha256 == fast.tracks[0].samples_sha256


def test_the_first_audio_is_there_before_the_last_tile_is_decoded(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        events = list(client.stream("piano", duration_s=30, step_count=1, seed=1))
    first_audio = next(place for place, event in enumerate(events) if isinstance(event, AudioChunk))
    tiles = [
        (place, event)
        for place, event in enumerate(events)
        if isinstance(event, StageProgress) and event.stage == "vae"
    ]
    last_place, last = tiles[-1]
    assert last.done_count == last.total_count > 2
    assert first_audio < tiles[0][0] < last_place
