"""Songs through all four services: the right audio, the right events, in the right order."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from acestage import AsyncClient
from acestage.generation import (
    STAGES,
    AudioChunk,
    Generation,
    GenerationEvent,
    JobQueued,
    StageCompleted,
    StageProgress,
    StageStarted,
)
from acestage.generation_request import request_to_pb
from tests.in_process import InProcess
from tests.parity.reference import assert_same_audio, load_reference, reference_audio
from tests.running_stack import RunningStack

LYRICS = "[verse]\nRain on the window\n[chorus]\nlá, là ☔"


def test_the_split_gives_the_bits_of_the_engines_in_one_process(turbo_stack: RunningStack) -> None:
    options = {"duration_s": 12.3, "seed": 42, "lyrics": LYRICS, "batch_size": 2, "bpm": 90}
    with turbo_stack.client() as client:
        generation = client.generate("warm piano", **options)  # type: ignore[arg-type]
    expected = InProcess("tiny-turbo").generate(request_to_pb("warm piano", options))  # type: ignore[arg-type]
    for track, audio in zip(generation.tracks, expected, strict=True):
        assert np.array_equal(track.audio, audio)


def test_guided_songs_equal_the_pipeline(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = checkpoints["base/original"]
    options = {
        "duration_s": 10,
        "seed": 7,
        "lyrics": LYRICS,
        "step_count": 5,
        "guidance_scale": 4.0,
        "cfg_interval_end": 0.8,
        "batch_size": 3,
    }
    with RunningStack.start(checkpoint, tmp_path) as stack, stack.client() as client:
        generation = client.generate("loud drums", **options)  # type: ignore[arg-type]
    assert not generation.settings.model.is_turbo
    expected = InProcess(checkpoint).generate(request_to_pb("loud drums", options))  # type: ignore[arg-type]
    ours = np.stack([track.audio for track in generation.tracks])
    assert np.array_equal(ours, expected)
    pipeline = load_reference(checkpoints["base/diffusers"])
    assert_same_audio(ours, reference_audio(pipeline, request_to_pb("loud drums", options)))  # type: ignore[arg-type]


def test_events_tell_the_whole_story_in_order(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        # A caption that no other test has: for a prompt that was encoded before, there is no text encoder.
        events = list(client.stream("a whole story", duration_s=20, seed=3, step_count=5, batch_size=2))
    assert isinstance(events[0], JobQueued)
    assert [event.stage for event in events if isinstance(event, StageStarted)] == list(STAGES)
    assert [event.stage for event in events if isinstance(event, StageCompleted)] == list(STAGES)
    steps = [e for e in events if isinstance(e, StageProgress) and e.stage == "dit"]
    assert [(e.done_count, e.total_count) for e in steps] == [(n, 5) for n in range(1, 6)]
    tiles = [e for e in events if isinstance(e, StageProgress) and e.stage == "vae"]
    assert [e.done_count for e in tiles] == list(range(1, tiles[-1].total_count + 1))
    generation = events[-1]
    assert isinstance(generation, Generation)
    check_audio(generation, [event for event in events if isinstance(event, AudioChunk)])
    check_leases(events)


def check_audio(generation: Generation, chunks: list[AudioChunk]) -> None:
    for track in generation.tracks:
        own = [chunk for chunk in chunks if chunk.item_index == track.item_index]
        joined = np.concatenate([chunk.samples for chunk in own])
        assert [c.start_sample for c in own] == list(np.cumsum([0] + [len(c.samples) for c in own[:-1]]))
        assert track.audio.shape == (960_000, 2)
        assert track.sample_rate_hz == 48_000
        assert np.abs(track.audio).max() == pytest.approx(10 ** (-1 / 20), rel=1e-6)
        assert np.array_equal(joined * np.float32(track.gain), track.audio)
        assert hashlib.sha256(joined.tobytes()).hexdigest() == track.samples_sha256
        assert track.warnings == ()
    assert [track.seed for track in generation.tracks] == [3, 4]


def check_leases(events: list[GenerationEvent]) -> None:
    """The stages had the device one after the other, each under a lease of its own."""
    done = [event for event in events if isinstance(event, StageCompleted)]
    for before, after in itertools.pairwise(done):
        assert before.started_at < before.ended_at <= after.started_at
    assert len({event.fencing_token for event in done}) == len(done)
    for event in done:
        assert {process.name.split("/")[1] for process in event.processes} == {"service", "preload", "worker"}
        assert all(process.peak_rss_bytes > 0 for process in event.processes)


def test_settings_report_defaults_and_repeat_the_song(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        first = client.generate("defaults alone", duration_s=10)
        settings = first.settings
        assert (settings.step_count, settings.shift, settings.guidance_scale) == (8, 3.0, 1.0)
        assert (settings.model.name, settings.model.is_untrained) == ("tiny-turbo", True)
        assert (settings.device, settings.dtype, settings.kernels) == ("cpu", "float32", "eager")
        assert [stage.kernels for stage in first.stages] == ["", "eager", "eager"]
        again = client.generate("defaults alone", duration_s=settings.duration_s, seed=settings.seed)
    assert again.tracks[0].samples_sha256 == first.tracks[0].samples_sha256


def test_a_caption_longer_than_what_the_model_reads_is_told_with_each_take(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        song = client.generate("warm piano with soft rain, " * 60, duration_s=10, step_count=1, batch_size=2)
    for track in song.tracks:
        (warning,) = track.warnings
        assert warning.startswith("caption: the model reads 256 of its ")


def test_several_clients_at_once_are_served_in_order_and_none_is_lost(turbo_stack: RunningStack) -> None:
    finished: list[int] = []

    async def one(index: int, queued: asyncio.Event) -> Generation:
        def on_event(event: GenerationEvent) -> None:
            if isinstance(event, JobQueued):
                queued.set()

        async with AsyncClient(turbo_stack.target) as client:
            generation = await client.generate("piano", duration_s=10, seed=index, on_event=on_event)
        finished.append(index)
        return generation

    async def scenario() -> list[Generation]:
        tasks = []
        for index in range(5):
            queued = asyncio.Event()
            tasks.append(asyncio.create_task(one(index, queued)))
            await queued.wait()
        return await asyncio.gather(*tasks)

    generations = asyncio.run(asyncio.wait_for(scenario(), 120))
    assert finished == list(range(5))
    assert [generation.tracks[0].seed for generation in generations] == list(range(5))
    assert len({generation.tracks[0].samples_sha256 for generation in generations}) == 5


def test_a_deadline_ends_the_work(turbo_stack: RunningStack) -> None:
    from acestage.errors import DeadlineExceededError

    with turbo_stack.client() as client:
        with pytest.raises(DeadlineExceededError):
            client.generate("piano", duration_s=600, step_count=200, timeout_s=1.0)
        assert client.generate("piano", duration_s=10, seed=1).tracks
        assert [job.outcome for job in client.status().recent_jobs[:2]] == ["succeeded", "DEADLINE_EXCEEDED"]
