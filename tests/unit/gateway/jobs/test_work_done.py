"""How much of a job is done grows as its time goes by."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from acestage.generation import (
    AudioChunk,
    GenerationEvent,
    JobQueued,
    StageCompleted,
    StageProgress,
    StageStarted,
    StageWaiting,
)
from services.gateway.jobs.job_events import plain
from services.gateway.jobs.work_done import PartTimes, WorkDone
from tests.unit.gateway.scripted_orchestrator import samples

START = datetime(2026, 1, 2, tzinfo=UTC)
EVEN = {"encode": 2.0, "text_encoder": 1.0, "dit": 3.0, "decode": 4.0}


def completed(stage: str, seconds: float) -> StageCompleted:
    end = START + timedelta(seconds=seconds)
    return StageCompleted(stage, "1-1", 1, START, end, 0.0, seconds, (), 0, 0, (), "")


def started(stage: str) -> StageStarted:
    return StageStarted(stage, "cpu", "float32", "1-1", 1, 0.0, "none", 100, False)


def visit(stage: str, count: int) -> list[GenerationEvent]:
    steps = [StageProgress(stage, number + 1, count) for number in range(count)]
    return [StageWaiting(stage, 1), started(stage), *steps, completed(stage, 1.0)]


def times(*jobs: list[tuple[str, float]]) -> PartTimes:
    found = PartTimes()
    for job in jobs:
        found.add([plain(asdict(completed(stage, seconds))) for stage, seconds in job])
    return found


def done_after(work: WorkDone, *events: GenerationEvent) -> list[float]:
    return [round(work.after(event), 3) for event in events]


def test_each_part_has_the_share_that_its_time_has() -> None:
    work = WorkDone(EVEN, has_audio=False)
    assert done_after(work, JobQueued("abc", 0)) == [0.0]
    assert done_after(work, *visit("text_encoder", 0)) == [0.0, 0.0, 0.125]
    assert done_after(work, *visit("dit", 3)) == [0.125, 0.125, 0.25, 0.375, 0.5, 0.5]
    chunk = AudioChunk(0, 0, samples(10), 48_000)
    assert done_after(work, *visit("vae", 2)[:3], chunk) == [0.5, 0.5, 0.75, 0.75]


def test_it_is_not_all_before_the_files_are_there() -> None:
    assert done_after(WorkDone(EVEN, has_audio=False), *visit("dit", 1), *visit("vae", 1))[-1] == 0.99


def test_what_the_vae_does_before_the_song_is_denoised_is_no_decode() -> None:
    work = WorkDone(EVEN, has_audio=True)
    assert done_after(work, *visit("vae", 2)) == [0.0, 0.0, 0.1, 0.2, 0.2]
    assert done_after(work, *visit("text_encoder", 0))[-1] == 0.3
    assert done_after(work, *visit("dit", 1), *visit("vae", 2))[-3:] == [0.8, 0.99, 0.99]


def test_it_never_falls() -> None:
    work = WorkDone(EVEN, has_audio=True)
    events = [*visit("vae", 3), *visit("vae", 2), *visit("dit", 4)[:-2], *visit("dit", 4), *visit("vae", 2)]
    found = done_after(work, *events)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0.0, 0.99)


def test_a_part_that_nobody_expected_counts_as_nothing() -> None:
    assert done_after(WorkDone(EVEN, has_audio=False), *visit("vae", 2)) == [0.0] * 5


def test_jobs_teach_how_long_parts_take() -> None:
    jobs = times(
        [("text_encoder", 1.0), ("dit", 2.0), ("vae", 92.0)],
        [("vae", 5.0), ("vae", 7.0), ("dit", 4.0), ("vae", 88.0)],
    )
    assert jobs.expected_s() == {"encode": 12.0, "text_encoder": 1.0, "dit": 3.0, "decode": 90.0}


def test_a_part_that_was_never_there_is_expected_as_slow_as_the_others() -> None:
    guess = PartTimes().expected_s()
    found = times([("dit", 10 * guess["dit"]), ("vae", 10 * guess["decode"])]).expected_s()
    assert found["encode"] == pytest.approx(10 * guess["encode"])
    assert found["text_encoder"] == pytest.approx(10 * guess["text_encoder"])


@pytest.mark.parametrize(
    "stages",
    [
        [{"stage": "dit"}],
        [{"stage": "dit", "started_at": 1, "ended_at": 2}],
        [{"stage": "x", "started_at": "2026-01-02", "ended_at": "2026-01-03"}],
        [{"stage": "dit", "started_at": "2026-01-03", "ended_at": "2026-01-02"}],
        [{}],
        [3],
    ],
)
def test_a_damaged_record_teaches_nothing(stages: Any) -> None:
    found = PartTimes()
    found.add(stages)
    assert found.expected_s() == PartTimes().expected_s()


def test_what_takes_no_time_at_all_is_never_done() -> None:
    assert done_after(WorkDone(dict.fromkeys(EVEN, 0.0), has_audio=True), *visit("dit", 2))[-1] == 0.0
