"""Which job an open page shows, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from acestage.errors import AcestageError, DeadlineExceededError, NotFoundError
from services.gateway.exports.formats import ExportFormat
from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobState, Progress
from services.gateway.page import job_view
from services.gateway.page.job_view import JobView, Shown
from services.gateway.page.languages import TEXTS
from tests.unit.gateway.gateway_records import START, ended_record
from tests.unit.job_events import run

TEXT = TEXTS["en"]


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_view, "TICK_S", 0.01)


class FakeBook:
    """Jobs that nobody makes.

    Attributes:
        fault: why none of them can be stopped.
    """

    def __init__(self, *jobs: Job) -> None:
        self.fault: AcestageError | None = None
        self._jobs = jobs
        self.cancelled: list[str] = []

    def jobs(self) -> list[Job]:
        return sorted(self._jobs, key=lambda job: job.record.created_at, reverse=True)

    def find(self, job_id: str) -> Job:
        for job in self._jobs:
            if job.job_id == job_id:
                return job
        raise NotFoundError("job_id: no such job")

    async def cancel(self, job_id: str) -> Job:
        if self.fault is not None:
            raise self.fault
        self.cancelled.append(job_id)
        job = self.find(job_id)
        job.update(replace(job.record, state=JobState.CANCELLED))
        return job

    def starts_in_s(self, queue_position: int) -> None:
        return None


def job(job_id: str, state: JobState, age_s: float = 0.0, progress: Progress | None = None) -> Job:
    takes = ended_record(job_id).takes if state is JobState.SUCCEEDED else ()
    record = replace(ended_record(job_id, state=state), created_at=START - timedelta(seconds=age_s))
    return Job(replace(record, takes=takes, progress=progress or Progress()), Path())


def view(*jobs: Job) -> tuple[JobView, FakeBook]:
    book = FakeBook(*jobs)
    formats = {ExportFormat.mp3: "", ExportFormat.opus: "no encoder"}
    return JobView(cast(Gateway, SimpleNamespace(book=book, formats=formats)), TEXT), book


async def next_of(updates: AsyncIterator[list[Any]]) -> list[Any]:
    async with asyncio.timeout(5):
        return await anext(updates)


def test_a_page_that_is_opened_shows_the_song_that_is_made_rather_than_one_that_waits() -> None:
    async def scenario() -> None:
        jobs, _ = view(
            job("queued", JobState.QUEUED, progress=Progress(queue_position=1)),
            job("running", JobState.RUNNING, 5.0, Progress("dit", done_count=1, total_count=8)),
            job("done", JobState.SUCCEEDED, -5.0),
        )
        shown = Shown()
        status, _, figures, _, history = await next_of(jobs.rejoined(shown))
        assert status == "Diffusion: 1 of 8."
        assert 'id="take-running-0"' in figures
        assert (shown.job_id, history["value"]) == ("running", "running")

    run(scenario())


def test_a_page_that_is_opened_where_nothing_is_made_shows_nothing() -> None:
    async def scenario() -> None:
        jobs, _ = view(job("done", JobState.SUCCEEDED))
        shown = Shown()
        (update,) = [update async for update in jobs.rejoined(shown)]
        assert update[:4] == [gr.skip()] * 4
        assert [label.partition(" ")[0] for label, _ in update[-1]["choices"]] == ["done"]
        assert shown.job_id == ""

    run(scenario())


def test_a_song_with_many_behind_it_stays_in_the_list_while_it_is_shown() -> None:
    async def scenario() -> None:
        song = job("old", JobState.QUEUED, 5.0, Progress(queue_position=1))
        jobs, _ = view(song, *(job(f"new-{number}", JobState.SUCCEEDED) for number in range(200)))
        updates = jobs.picked(Shown(), "old")
        for state in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED):
            song.update(replace(song.record, state=state))
            *_, history = await next_of(updates)
            assert history["choices"][-1][1] == "old"

    run(scenario())


def test_who_shows_a_song_again_follows_it_once() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING)
        jobs, _ = view(song)
        shown = Shown()
        first, second = jobs.picked(shown, "abc"), jobs.picked(shown, "abc")
        await next_of(first)
        await next_of(second)
        song.update(replace(ended_record("abc"), state=JobState.SUCCEEDED))
        with pytest.raises(StopAsyncIteration):
            await next_of(first)
        assert (await next_of(second))[0].startswith("Done in")

    run(scenario())


def test_a_song_that_is_heard_keeps_its_player_and_gets_the_rest_at_the_end() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING)
        jobs, _ = view(song)
        updates = jobs.picked(Shown(), "abc")
        _, _, figures, finished, _ = await next_of(updates)
        assert 'preload="none"' in figures
        assert finished == {}
        song.update(ended_record("abc"))
        *_, last = [update async for update in updates]
        assert last[2] == gr.skip()
        (take,) = last[3].values()
        assert list(last[3]) == ["take-abc-0"]
        assert take["title"] == "Take 1, seed 7, 2.0 s"
        assert "format=mp3" in take["details"]
        assert "format=opus" not in take["details"]

    run(scenario())


def test_takes_that_a_limit_left_out_have_no_player_at_the_end() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING)
        order = replace(song.record.order, options={"batch_size": 2})
        song.update(replace(song.record, order=order))
        jobs, _ = view(song)
        updates = jobs.picked(Shown(), "abc")
        assert (await next_of(updates))[2].count("<audio") == 2
        song.update(replace(ended_record("abc"), order=order))
        *_, last = [update async for update in updates]
        assert last[2].count("<audio") == 1

    run(scenario())


def test_the_first_take_plays_once_its_sound_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        record = job("abc", JobState.RUNNING).record
        song = Job(replace(record, order=replace(record.order, options={"batch_size": 2})), tmp_path)
        jobs, _ = view(song)
        updates = jobs.begun(song, Shown())
        assert (await next_of(updates))[2] == ""
        song.begin_take(0)
        first, second, _ = (await next_of(updates))[2].split("</figure>")
        assert first.startswith('<figure id="take-abc-0">')
        assert ("data-plays" in first, "data-plays" in second) == (True, False)
        assert (await next_of(updates))[2] == gr.skip()  # it plays on
        song.close_takes(are_whole=True)

    run(scenario())


def test_a_song_that_fails_loses_its_player() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING)
        jobs, _ = view(song)
        updates = jobs.picked(Shown(), "abc")
        assert "<audio" in (await next_of(updates))[2]
        song.update(replace(song.record, state=JobState.FAILED))
        *_, last = [update async for update in updates]
        assert last[2] == ""

    run(scenario())


def test_the_list_of_songs_says_when_one_is_in_work() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.QUEUED)
        jobs, _ = view(song)
        updates = jobs.begun(song, Shown())
        await next_of(updates)
        song.update(replace(song.record, state=JobState.RUNNING))
        ((label, _),) = (await next_of(updates))[4]["choices"]
        assert label.startswith("in work · ")
        assert (await next_of(updates))[4] == gr.skip()

    run(scenario())


def test_a_finished_song_has_its_player_beside_its_pictures() -> None:
    async def scenario() -> None:
        jobs, _ = view(job("abc", JobState.SUCCEEDED))
        _, _, figures, _, _ = await next_of(jobs.picked(Shown(), "abc"))
        start, _, end = figures.partition("<audio")
        assert start == '<figure id="take-abc-0"><figcaption>Take 1, seed 7, 2.0 s</figcaption>'
        assert 'preload="metadata"' in end
        assert "waveform.svg" in end
        assert end.endswith("</figure>")

    run(scenario())


def test_a_song_whose_files_are_written_is_not_stopped_and_that_is_said() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING, progress=Progress("vae", is_writing=True))
        jobs, book = view(song)
        shown = Shown()
        updates = jobs.begun(song, shown)
        assert (await next_of(updates))[0] == TEXT.writing
        said = f"{TEXT.writing}\n{TEXT.made_already}"
        assert await jobs.stop(shown) == said
        assert (await next_of(updates))[0] == said
        song.update(ended_record("abc"))
        assert (await next_of(updates))[0].startswith("Done in")
        assert book.cancelled == []

    run(scenario())


def test_a_song_that_is_made_is_stopped() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING)
        jobs, book = view(song)
        shown = Shown()
        await next_of(jobs.begun(song, shown))
        assert await jobs.stop(shown) == "Stopped."
        assert book.cancelled == ["abc"]
        assert await jobs.stop(Shown()) == "Ready."

    run(scenario())


def test_that_it_is_too_late_to_stop_a_song_is_said_of_no_other() -> None:
    async def scenario() -> None:
        writing = Progress("vae", is_writing=True)
        jobs, _ = view(*(job(name, JobState.RUNNING, progress=writing) for name in ("abc", "def")))
        shown = Shown()
        await next_of(jobs.picked(shown, "abc"))
        assert TEXT.made_already in await jobs.stop(shown)
        updates = jobs.picked(shown, "def")
        assert [(await next_of(updates))[0] for _ in range(2)] == [TEXT.writing] * 2

    run(scenario())


def test_a_song_that_cannot_be_stopped_says_why() -> None:
    async def scenario() -> None:
        song = job("abc", JobState.RUNNING)
        jobs, book = view(song)
        book.fault = DeadlineExceededError("job abc has not ended within 60 s")
        shown = Shown()
        await next_of(jobs.begun(song, shown))
        assert await jobs.stop(shown) == "Failed: job abc has not ended within 60 s"

    run(scenario())
