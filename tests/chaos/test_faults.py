"""Songs on a small device on which something goes wrong, or nothing does."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from acestage.errors import VramBudgetExceededError, WorkerCrashedError, WorkerStalledError
from acestage.generation import AudioChunk, Generation, GenerationEvent, StageStarted
from services.runtime.devices.fake_device.spec import Fault
from services.runtime.jobs.stay import WAKING_S
from tests.chaos.chaos_stack import ChaosStack, until_gone
from tests.chaos.conftest import PROGRESS_TIMEOUT_S, TILE_FRAMES

STAGES = ("text_encoder", "dit", "vae")


@pytest.fixture(scope="module")
def plain(small_device: ChaosStack) -> Generation:
    """The song without any fault."""
    small_device.fail()
    return small_device.song()


def test_a_vae_out_of_memory_goes_on_with_smaller_tiles(small_device: ChaosStack, plain: Generation) -> None:
    small_device.fail(Fault("vae", "out_of_memory", at=2))
    chunks: list[AudioChunk] = []
    starts: list[StageStarted] = []

    def on_event(event: GenerationEvent) -> None:
        if isinstance(event, AudioChunk):
            chunks.append(event)
        elif isinstance(event, StageStarted) and event.stage == "vae":
            starts.append(event)

    song = small_device.song(on_event=on_event)
    (adaptation,) = song.stages[-1].adaptations
    assert adaptation.kind == "smaller_tile"
    assert adaptation.before.endswith(f"tiles of {TILE_FRAMES} frames")
    assert adaptation.after.endswith("tiles of 24 frames")
    assert "on command" in adaptation.cause
    assert len(starts) == 2
    ends = list(itertools.accumulate(len(chunk.samples) for chunk in chunks))
    assert [chunk.start_sample for chunk in chunks] == [0, *ends[:-1]]
    assert np.abs(song.tracks[0].audio - plain.tracks[0].audio).max() < 1e-5
    assert song.stages[-1].planned_bytes < plain.stages[-1].planned_bytes


def test_a_vae_that_is_always_out_of_memory_says_what_it_tried(
    small_device: ChaosStack, plain: Generation
) -> None:
    small_device.fail(Fault("vae", "out_of_memory", times=99))
    with pytest.raises(VramBudgetExceededError) as caught:
        small_device.song()
    for frames in (32, 24, 16, 12, 8):
        assert f"tiles of {frames} frames" in caught.value.message
    small_device.fail()
    assert small_device.song().tracks[0].samples_sha256 == plain.tracks[0].samples_sha256


@pytest.mark.parametrize("stage", STAGES)
def test_memory_that_runs_out_as_weights_are_placed_is_told_as_such(
    small_device: ChaosStack, plain: Generation, stage: str
) -> None:
    small_device.fail(Fault(stage, "out_of_memory", at=0, times=99))
    with pytest.raises(VramBudgetExceededError, match=f"{stage} ran out of memory on fake:0.*tried: "):
        small_device.song()
    small_device.fail()
    assert small_device.song().tracks[0].samples_sha256 == plain.tracks[0].samples_sha256


def test_a_worker_that_hangs_is_replaced(small_device: ChaosStack, plain: Generation) -> None:
    small_device.fail(Fault("dit", "wedge"))
    job = small_device.job(duration_s=10, step_count=1, seed=1)
    small_device.until_struck()
    workers = small_device.workers("dit")
    begun = time.monotonic()
    assert job.outcome(30) == WorkerStalledError.reason
    assert job.ended_at - begun < PROGRESS_TIMEOUT_S + WAKING_S + 2
    until_gone(workers, 5)
    assert small_device.song().tracks[0].samples_sha256 == plain.tracks[0].samples_sha256


def test_a_device_in_use_after_a_crash_is_waited_for(small_device: ChaosStack, plain: Generation) -> None:
    """What keeps the next worker out is the lock of the device: its last worker is dead."""
    linger_s = 2.0
    small_device.fail(Fault("dit", "linger", seconds=linger_s), Fault("dit", "crash", at=2))
    with pytest.raises(WorkerCrashedError, match="exit code 70"):
        small_device.song(step_count=4)
    begun = time.monotonic()
    song = small_device.song()
    assert song.tracks[0].samples_sha256 == plain.tracks[0].samples_sha256
    assert song.stages[0].load_s > linger_s / 2
    assert time.monotonic() - begun > linger_s / 2


def test_slow_placement_is_waited_for_and_told(small_device: ChaosStack, plain: Generation) -> None:
    small_device.fail(Fault("vae", "slow", at=0, seconds=1.0))
    song = small_device.song()
    assert song.stages[-1].load_s > 1.0
    assert song.tracks[0].samples_sha256 == plain.tracks[0].samples_sha256


def test_a_small_device_has_one_holder_at_a_time(small_device: ChaosStack, plain: Generation) -> None:
    small_device.fail()
    ended = threading.Event()
    samples: list[list[str]] = []

    def sample() -> None:
        with small_device.stack.client() as client:
            while not ended.is_set():
                samples.append([lease.holder for lease in client.status().leases])

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        songs = [small_device.song(step_count=8) for _ in range(2)]
    finally:
        ended.set()
        sampler.join(20)
    assert max(len(holders) for holders in samples) == 1
    assert len({holders[0] for holders in samples if holders}) == len(STAGES)
    for song in songs:
        tokens = [stage.fencing_token for stage in song.stages]
        assert tokens == list(range(tokens[0], tokens[0] + 3))  # each stage came anew, and nobody in between
        assert all(stage.load_s > 0 for stage in song.stages)


def test_queued_work_of_a_stage_runs_under_one_lease(small_device: ChaosStack) -> None:
    small_device.fail()
    alone = [small_device.song(seed=seed) for seed in range(4)]
    small_device.fail(Fault("text_encoder", "slow", seconds=0.5))  # so that all of them are there
    jobs = [small_device.job(duration_s=10, step_count=1, seed=seed) for seed in range(4)]
    together = [job.generation(60) for job in jobs]
    assert [song.tracks[0].samples_sha256 for song in together] == [
        song.tracks[0].samples_sha256 for song in alone
    ]
    grants = {stage.fencing_token for song in together for stage in song.stages}
    assert 3 <= len(grants) < 12
    text_encoder = {song.stages[0].fencing_token for song in together}
    assert len(text_encoder) == 1
