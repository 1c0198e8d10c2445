from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
import soundfile
from grpc.aio import AioRpcError, Metadata

from acestage.async_client import AsyncClient
from acestage.errors import (
    AcestageError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    QueueFullError,
    ServiceUnreachableError,
    WorkerCrashedError,
)
from acestage.generation import (
    AudioChunk,
    Generation,
    GenerationEvent,
    JobQueued,
    StageCompleted,
    StageProgress,
)
from acestage.generation_options import GenerationOptions
from acestage.orchestrator_errors import Calls
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.stored_settings import read_settings
from services.gateway.jobs import job_follower
from services.gateway.jobs.job import Job
from services.gateway.jobs.job_book import JobBook
from services.gateway.jobs.order import JobOrder
from services.gateway.jobs.record import JobRecord, JobState, Progress, now
from services.gateway.outputs import takes
from services.gateway.outputs.output_area import OutputArea
from services.gateway.outputs.takes import UNTRAINED
from tests.unit.gateway.scripted_orchestrator import ScriptedOrchestrator, samples, song, stopped
from tests.unit.waiting import HANG_S, until

ORDER = JobOrder("piano", {"seed": 7}, audio_format=ExportFormat.flac)
Body = Callable[[JobBook], Awaitable[Any]]

EVENTS = ["queued", "queued", "stage_started", "progress", "progress", "audio", "succeeded"]
"""The names of what listeners hear of `song`."""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_follower, "RECONNECT_PAUSE_S", 0.0)


@asynccontextmanager
async def open_book(
    root: Path, client: ScriptedOrchestrator, max_bytes: int = 1 << 30
) -> AsyncIterator[JobBook]:
    with closing(OutputArea(root, max_bytes=max_bytes, max_age_s=3600.0)) as area:
        async with JobBook(cast(AsyncClient, client), area) as book:
            yield book


def run(root: Path, client: ScriptedOrchestrator, body: Body) -> Any:
    async def work() -> Any:
        async with asyncio.timeout(HANG_S), open_book(root, client) as book:
            return await body(book)

    return asyncio.run(work())


async def finished(book: JobBook, order: JobOrder = ORDER) -> Job:
    job = await book.submit(order)
    await job.ended()
    return job


def test_a_song_is_kept_with_its_settings(tmp_path: Path) -> None:
    client = ScriptedOrchestrator(song("abc", take_count=2))
    job = run(tmp_path, client, finished)
    assert client.started == [("piano", {"seed": 7, "detached": True})]
    record = job.record
    assert (record.state, record.run_s, record.settings["task"]) == (JobState.SUCCEEDED, 2.0, "text2music")
    assert [take.file for take in record.takes] == ["piano-take-1-seed-7.flac", "piano-take-2-seed-8.flac"]
    for index, take in enumerate(record.takes):
        master, rate = soundfile.read(job.folder / take.master, dtype="float32")
        np.testing.assert_array_equal(master, samples(4_800, index))
        assert rate == 48_000
        sidecar = json.loads((job.folder / take.file).with_suffix(".json").read_text())
        restored = read_settings(job.folder / take.file)
        assert restored == sidecar
        assert (restored["seed"], restored["batch_size"], restored["caption"]) == (7 + index, 1, "piano")
    assert not list(job.folder.glob("*.f32"))


def song_of_a_slow_decode() -> list[GenerationEvent]:
    """Its decode took nine times as long as its denoising."""
    *events, generation = song("abc")
    assert isinstance(generation, Generation)
    times = [("dit", 1), ("vae", 9)]
    start = datetime(2026, 1, 2, tzinfo=UTC)
    stages = tuple(
        StageCompleted(name, "1-1", 1, start, start + timedelta(seconds=s), 0.0, s, (), 0, 0, (), "")
        for name, s in times
    )
    return [*events, replace(generation, stages=stages)]


async def is_a_tenth_done_once_it_is_denoised(book: JobBook) -> None:
    job = await book.submit(ORDER)
    while job.record.progress.done_count != 2:
        await job.changed()
    assert job.record.fraction == pytest.approx(0.1, abs=0.05)


def test_how_long_parts_took_is_known_to_the_next_job(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        await finished(book)
        await is_a_tenth_done_once_it_is_denoised(book)

    run(tmp_path, ScriptedOrchestrator(song_of_a_slow_decode(), [*song("def")[:5], asyncio.Event()]), body)


def test_how_long_parts_took_is_known_after_a_restart(tmp_path: Path) -> None:
    run(tmp_path, ScriptedOrchestrator(song_of_a_slow_decode()), finished)
    client = ScriptedOrchestrator([*song("def")[:5], asyncio.Event()])
    run(tmp_path, client, is_a_tenth_done_once_it_is_denoised)


@pytest.mark.parametrize("options", [{"source_id": "a1"}, {"reference_id": "a1"}])
def test_to_read_audio_is_a_part_of_the_work(tmp_path: Path, options: GenerationOptions) -> None:
    async def body(book: JobBook) -> None:
        job = await book.submit(JobOrder("piano", options))
        while job.record.progress.done_count != 1:
            await job.changed()
        assert job.record.progress.is_source
        assert 0.0 < job.record.fraction < 0.2

    events = [JobQueued("abc", 1), JobQueued("abc", 0), StageProgress("vae", 1, 2), asyncio.Event()]
    run(tmp_path, ScriptedOrchestrator(events), body)


def test_listeners_hear_every_message_and_then_the_end(tmp_path: Path) -> None:
    async def body(book: JobBook) -> list[tuple[int, str]]:
        job = await book.submit(ORDER)
        return [(number, event.name) async for number, event in job.events.follow()]

    assert run(tmp_path, ScriptedOrchestrator(song("abc")), body) == list(enumerate(EVENTS))


def test_a_wrong_request_leaves_nothing(tmp_path: Path) -> None:
    error = InvalidArgumentError.at("bpm", "is 9; accepted: 30 to 300")

    async def body(book: JobBook) -> None:
        with pytest.raises(InvalidArgumentError, match="bpm: is 9"):
            await book.submit(ORDER)
        assert book.jobs() == []

    run(tmp_path, ScriptedOrchestrator([error]), body)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_title_has_a_limit(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        with pytest.raises(InvalidArgumentError, match="title: has 501 characters; accepted: up to 500"):
            await book.submit(replace(ORDER, title="x" * 501))
        assert (await book.submit(replace(ORDER, title="x" * 500))).job_id == "abc"

    run(tmp_path, ScriptedOrchestrator(song("abc")), body)


@pytest.mark.parametrize("fade_ms", [-1.0, 101.0, float("nan")])
def test_a_fade_that_no_file_can_have_is_refused_before_the_song_is_made(
    tmp_path: Path, fade_ms: float
) -> None:
    client = ScriptedOrchestrator(song("abc"))

    async def body(book: JobBook) -> None:
        with pytest.raises(InvalidArgumentError, match=r"edge_fade_ms: is .*; accepted: 0 to 100"):
            await book.submit(replace(ORDER, edge_fade_ms=fade_ms))

    run(tmp_path, client, body)
    assert client.started == []


def test_orders_with_one_key_are_one_job_and_a_new_one_after_a_refusal(tmp_path: Path) -> None:
    client = ScriptedOrchestrator([QueueFullError("queue: full")], song("abc"), song("def"))

    async def body(book: JobBook) -> None:
        with pytest.raises(QueueFullError):
            await book.submit(ORDER, "key")
        first, second = await asyncio.gather(book.submit(ORDER, "key"), book.submit(ORDER, "key"))
        assert first is second
        with pytest.raises(InvalidArgumentError, match="Idempotency-Key: came before with another request"):
            await book.submit(JobOrder("drums", {}), "key")
        assert (await book.submit(ORDER, "other")).job_id == "def"

    run(tmp_path, client, body)


def test_a_key_holds_after_a_restart(tmp_path: Path) -> None:
    async def submit(book: JobBook) -> str:
        job = await book.submit(ORDER, "key")
        await job.ended()
        return job.job_id

    assert run(tmp_path, ScriptedOrchestrator(song("abc")), submit) == "abc"
    assert run(tmp_path, ScriptedOrchestrator(), submit) == "abc"


def test_a_job_goes_on_though_its_caller_leaves(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        gate = asyncio.Event()
        client.calls = [[gate, *song("abc")]]
        asking = asyncio.create_task(book.submit(ORDER))
        await until(lambda: bool(client.started))
        asking.cancel()
        await asyncio.wait([asking])
        gate.set()
        await until(lambda: bool(book.jobs()))
        await book.find("abc").ended()
        assert book.find("abc").record.state is JobState.SUCCEEDED

    client = ScriptedOrchestrator()
    run(tmp_path, client, body)


def test_a_caller_that_leaves_loses_no_job(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        gate = asyncio.Event()
        client.calls = [[gate, *song("abc")]]
        asking = asyncio.create_task(book.submit(ORDER, "key"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        gate.set()
        await (await book.submit(ORDER, "key")).ended()
        assert len(client.started) == 1

    client = ScriptedOrchestrator()
    run(tmp_path, client, body)


def test_a_job_goes_on_when_the_gateway_starts_again(tmp_path: Path) -> None:
    async def leave(book: JobBook) -> None:
        job = await book.submit(ORDER)
        while job.live_take(0) is None:
            await job.changed()

    async def wait(book: JobBook) -> Job:
        await book.find("abc").ended()
        return book.find("abc")

    run(tmp_path, ScriptedOrchestrator([*song("abc")[:-1], asyncio.Event()]), leave)
    client = ScriptedOrchestrator(song("abc"))
    job = run(tmp_path, client, wait)
    assert client.attached == ["abc"]
    assert (job.record.state, len(job.record.takes)) == (JobState.SUCCEEDED, 1)
    assert not list(job.folder.glob("*.f32"))


def test_a_job_that_a_new_orchestrator_does_not_know_is_lost_and_says_so(tmp_path: Path) -> None:
    async def leave(book: JobBook) -> None:
        await book.submit(ORDER)

    async def wait(book: JobBook) -> Any:
        await book.find("abc").ended()
        return book.find("abc").record

    run(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), leave)
    record = run(tmp_path, ScriptedOrchestrator(), wait)
    assert (record.state, record.failure.reason) == (JobState.FAILED, "JOB_LOST")
    assert "started anew" in record.failure.message


def unreachable() -> AcestageError:
    """As a client has it of an orchestrator that is away."""
    with pytest.raises(ServiceUnreachableError) as raised, Calls(ScriptedOrchestrator.target).one():
        raise AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "Connection refused")
    return raised.value


def test_an_orchestrator_that_is_away_for_a_while_is_asked_again(tmp_path: Path) -> None:
    async def body(book: JobBook) -> tuple[JobRecord, list[str]]:
        job = await finished(book)
        return job.record, [event.name async for _, event in job.events.follow()]

    client = ScriptedOrchestrator([*song("abc")[:4], unreachable()], [unreachable()], song("abc"))
    record, heard = run(tmp_path, client, body)
    assert client.attached == ["abc", "abc"]
    assert record.state is JobState.SUCCEEDED
    assert heard == EVENTS  # none of them twice


@pytest.mark.parametrize(
    "error",
    [
        ServiceUnreachableError("dit does not answer", metadata={"target": "dit at 127.0.0.1:50052"}),
        WorkerCrashedError("the worker of dit was killed"),
    ],
)
def test_a_failed_job_says_why(tmp_path: Path, error: AcestageError) -> None:
    client = ScriptedOrchestrator([*song("abc")[:3], error])
    record = run(tmp_path, client, finished).record
    assert client.attached == []
    assert record.state is JobState.FAILED
    assert (record.failure.reason, record.failure.message) == (error.reason, error.message)
    assert record.ended_at is not None


def test_a_cancelled_job_ends_as_cancelled(tmp_path: Path) -> None:
    async def body(book: JobBook) -> Job:
        gate = asyncio.Event()
        client.on_cancel = gate.set
        client.calls = [[*song("abc")[:3], gate, stopped("abc")]]
        await book.submit(ORDER)
        job = await book.cancel("abc")
        assert await book.cancel("abc") is job  # it stays as it is
        return job

    client = ScriptedOrchestrator()
    job = run(tmp_path, client, body)
    assert client.cancelled == ["abc"]
    assert job.record.state is JobState.CANCELLED


def test_jobs_that_nobody_knows_are_named(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        with pytest.raises(NotFoundError, match="no job 'nobody' is known here"):
            await book.cancel("nobody")

    run(tmp_path, ScriptedOrchestrator(), body)


def test_a_full_disk_fails_the_job_and_stops_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    client = ScriptedOrchestrator(song("abc"))
    job = run(tmp_path, client, finished)
    assert client.cancelled == ["abc"]
    assert (job.record.state, job.record.failure.reason) == (JobState.FAILED, "OUTPUT_NOT_WRITTEN")
    assert "No space left on device" in job.record.failure.message


def test_files_that_cannot_be_written_are_written_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*values: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_follower, "write_takes", fail)
    record = run(tmp_path, ScriptedOrchestrator(song("abc")), finished).record
    assert (record.state, record.failure.reason) == (JobState.FAILED, "OUTPUT_NOT_WRITTEN")
    assert not record.progress.is_writing


def test_a_job_that_cannot_be_written_down_is_refused_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(area: OutputArea, record: JobRecord) -> None:
        raise OSError(28, "No space left on device")

    async def body(book: JobBook) -> None:
        with pytest.raises(FailedPreconditionError, match=r"output_dir: .*No space left on device"):
            await book.submit(ORDER)
        assert book.jobs() == []

    monkeypatch.setattr(OutputArea, "write_record", fail)
    client = ScriptedOrchestrator(song("abc"))
    run(tmp_path, client, body)
    assert client.cancelled == ["abc"]


def test_an_export_that_fails_leaves_the_master_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = takes.write_export

    def write(path: Path, audio: Any, audio_format: ExportFormat, **options: Any) -> None:
        if audio_format is ExportFormat.flac:
            raise InvalidArgumentError("no encoder")
        real(path, audio, audio_format, **options)

    monkeypatch.setattr(takes, "write_export", write)
    job = run(tmp_path, ScriptedOrchestrator(song("abc")), finished)
    (take,) = job.record.takes
    assert job.record.state is JobState.SUCCEEDED
    kept = "flac: no encoder; the WAV file take-0.wav is kept"
    assert (take.file, take.warnings) == ("", (UNTRAINED, kept))
    assert (job.folder / "take-0.wav").is_file()


def test_outputs_beyond_the_bound_go_with_their_jobs(tmp_path: Path) -> None:
    async def work() -> None:
        client = ScriptedOrchestrator(song("abc", sample_count=48_000), song("def", sample_count=48_000))
        async with asyncio.timeout(HANG_S), open_book(tmp_path, client, max_bytes=1 << 20) as book:
            for _ in range(2):
                await finished(book)
            await book.retire()
            assert [job.job_id for job in book.jobs()] == ["def"]

    asyncio.run(work())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "def"]


def test_progress_and_queue_are_told(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        job = await book.submit(ORDER)
        assert job.record.state is JobState.QUEUED
        while job.record.progress.done_count != 1:
            await job.changed()
        assert (job.record.state, job.record.progress.stage) == (JobState.RUNNING, "dit")
        assert job.record.started_at is not None
        gate.set()
        await job.ended()
        assert book.counts()[JobState.SUCCEEDED] == 1

    gate = asyncio.Event()
    start = [JobQueued("abc", 2), JobQueued("abc", 0), StageProgress("dit", 1, 2), gate]
    rest = [AudioChunk(0, 0, samples(4_800), 48_000), song("abc")[-1]]
    run(tmp_path, ScriptedOrchestrator([*start, *rest]), body)


def test_files_that_are_written_are_a_part_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobRecord] = []
    real = job_follower.write_takes

    def write(*values: Any) -> Any:
        seen.append(jobs[0].record)
        written.append(now())
        return real(*values)

    async def body(book: JobBook) -> JobRecord:
        jobs.append(await book.submit(ORDER))
        await jobs[0].ended()
        return jobs[0].record

    jobs: list[Job] = []
    written: list[Any] = []
    monkeypatch.setattr(job_follower, "write_takes", write)
    record = run(tmp_path, ScriptedOrchestrator(song("abc")), body)
    assert [(one.state, one.progress.is_writing) for one in seen] == [(JobState.RUNNING, True)]
    assert seen[0].progress.stage_left_s is None
    assert record.ended_at >= written[0]
    assert record.took_s == (record.ended_at - record.started_at).total_seconds()
    assert not record.progress.is_writing


def test_a_wait_counts_the_jobs_that_are_being_made(tmp_path: Path) -> None:
    async def body(book: JobBook) -> None:
        assert book.starts_in_s(1) is None
        book.pace.add(20.0)
        assert book.starts_in_s(2) == 40.0
        job = await book.submit(ORDER)
        while job.record.state is not JobState.RUNNING:
            await job.changed()
        job.update(replace(job.record, started_at=now() - timedelta(seconds=15)))
        assert book.starts_in_s(1) == pytest.approx(5.0, abs=2.0)
        job.update(replace(job.record, progress=Progress(is_writing=True)))
        assert book.starts_in_s(1) == 20.0

    events = [JobQueued("abc", 1), JobQueued("abc", 0), asyncio.Event()]
    run(tmp_path, ScriptedOrchestrator(events), body)


def test_a_wait_is_told_without_a_look_at_jobs_that_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(book: JobBook) -> None:
        book.pace.add(20.0)
        with monkeypatch.context() as blinded:
            blinded.delattr(book.find("abc"), "record")
            assert book.starts_in_s(1) == 20.0

    run(tmp_path, ScriptedOrchestrator(song("abc")), finished)
    run(tmp_path, ScriptedOrchestrator(), body)
