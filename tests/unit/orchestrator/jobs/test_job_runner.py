"""Jobs outlive their listeners, end once, and tell everyone how."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from acestage.errors import (
    AcestageError,
    CancelledError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    QueueFullError,
    WorkerCrashedError,
)
from acestage.protobuf_times import seconds
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.status import EndedJob
from services.orchestrator.jobs.job_history import JobHistory
from services.orchestrator.jobs.job_queue import JobQueue
from services.orchestrator.jobs.job_registry import LogBounds
from services.orchestrator.jobs.job_runner import JobRunner
from services.orchestrator.jobs.job_size import JobSize
from services.orchestrator.pipeline import Pipeline, Result
from services.orchestrator.song.source_latents import HeldAudio
from services.orchestrator.stage_clients import Deadline
from services.orchestrator.stage_work import Emit
from tests.unit.job_events import run
from tests.unit.waiting import until

REQUEST = pb.GenerateRequest(caption="piano", duration_s=10)
SIZE = JobSize(duration_s=10.0, take_count=1)
READ_S = 90.0


class FakePipeline:
    """Reports a step and waits; then it does as it is told.

    Attributes:
        finish: set, jobs come to their end.
        may_clean_up: cleared, jobs that are interrupted wait for it.
        interruptions: how often a job was interrupted.
        error: what they end with.
        cleanups: how often a job was interrupted and cleaned up without being interrupted again.
    """

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.may_clean_up = asyncio.Event()
        self.may_clean_up.set()
        self.interruptions = 0
        self.error: Exception | None = None
        self.cleanups = 0

    @contextmanager
    def hold(self, source_id: str, reference_id: str) -> Iterator[HeldAudio]:
        yield HeldAudio()

    async def run(
        self, request: pb.GenerateRequest, audio: HeldAudio, emit: Emit, deadline: Deadline
    ) -> Result:
        emit(pb.GenerateResponse(progress=pb.StageProgress(stage="dit", done_count=1, total_count=1)))
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.interruptions += 1
            await self.may_clean_up.wait()
            await asyncio.sleep(0)
            self.cleanups += 1
            raise
        if self.error is not None:
            raise self.error
        return Result(pb.Settings(duration_s=10, batch_size=1), (), (), pb.DecodeCost())


class Jobs:
    """A runner over a fake pipeline and a fake clock."""

    def __init__(
        self,
        *,
        slot_count: int = 1,
        queue_max_count: int = 1,
        held_bytes: int = 2**30,
        on_ended: Callable[[EndedJob], None] = lambda job: None,
    ) -> None:
        self.pipeline = FakePipeline()
        self.history = JobHistory(on_ended)
        self.now = 0.0
        self.queue = JobQueue(max_count=queue_max_count, slot_count=lambda: slot_count)
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        pipeline = cast(Pipeline, self.pipeline)
        self.runner = JobRunner(
            pipeline,
            self.queue,
            self.history,
            bounds=LogBounds(held_bytes=held_bytes, read_s=READ_S, kept_s=60.0),
            clock=clock,
        )
        self.heard: list[str | None] = []

    async def write(self, response: pb.GenerateResponse) -> None:
        self.heard.append(response.WhichOneof("event"))

    def listen(self, job_id: str) -> asyncio.Task[None]:
        return asyncio.create_task(self.runner.listen(job_id, self.write))


def test_a_job_goes_on_without_listeners_and_is_there_afterwards() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        listening = jobs.listen(job_id)
        await until(lambda: jobs.heard == ["queued", "progress"])
        listening.cancel()
        await asyncio.wait([listening])
        jobs.pipeline.finish.set()
        await until(lambda: jobs.history.counts["succeeded"])
        jobs.heard.clear()
        await jobs.listen(job_id)
        assert jobs.heard == ["queued", "progress", "completed"]
        await jobs.runner.close()

    run(scenario())


def test_stopping_a_job_tells_its_listeners_and_answers_once_it_has_ended() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        listening = jobs.listen(job_id)
        await until(lambda: len(jobs.heard) == 2)
        jobs.pipeline.may_clean_up.clear()
        first = asyncio.create_task(jobs.runner.stop(job_id))
        await until(lambda: jobs.pipeline.interruptions)
        others = [asyncio.create_task(jobs.runner.stop(job_id)) for _ in range(2)]
        await asyncio.wait([first, *others], timeout=0.05)
        jobs.pipeline.may_clean_up.set()
        assert await asyncio.gather(first, *others) == ["cancelled"] * 3
        assert jobs.pipeline.cleanups == 1
        with pytest.raises(CancelledError, match=job_id):
            await listening
        with pytest.raises(CancelledError, match=job_id):
            await jobs.listen(job_id)
        assert jobs.history.counts["cancelled"] == 1
        await jobs.runner.close()

    run(scenario())


def test_a_job_that_is_stopped_before_it_began_ends_as_well() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        listening = jobs.listen(job_id)
        assert await jobs.runner.stop(job_id) == "cancelled"
        with pytest.raises(CancelledError):
            await listening

    run(scenario())


@pytest.mark.parametrize(("timeout_s", "outcome"), [(0.0, "DEADLINE_EXCEEDED"), (60.0, "cancelled")])
def test_a_job_whose_callers_time_is_over_was_not_cancelled_by_somebody(
    timeout_s: float, outcome: str
) -> None:
    async def scenario() -> None:
        jobs = Jobs()
        jobs.runner.start(REQUEST, SIZE, timeout_s)
        await until(lambda: jobs.queue.running_count == 1)
        await jobs.runner.close()
        assert [job.outcome for job in jobs.history.recent()] == [outcome]

    run(scenario())


def test_the_outcome_of_an_ended_job_stays_as_it_is() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        jobs.pipeline.finish.set()
        await jobs.listen(job_id)
        assert await jobs.runner.stop(job_id) == "succeeded"
        with pytest.raises(NotFoundError):
            await jobs.runner.stop("nope")
        await jobs.runner.close()

    run(scenario())


def test_a_failure_reaches_those_who_listen_and_those_who_come_later() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        jobs.pipeline.error = WorkerCrashedError("dit died", metadata={"stage": "dit"})
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        listening = jobs.listen(job_id)
        await until(lambda: len(jobs.heard) == 2)
        jobs.pipeline.finish.set()
        for task in (listening, jobs.listen(job_id)):
            with pytest.raises(WorkerCrashedError, match="dit died") as caught:
                await task
            assert caught.value.metadata == {"stage": "dit"}
        assert await jobs.runner.stop(job_id) == "WORKER_CRASHED"
        await jobs.runner.close()

    run(scenario())


def test_who_reads_no_more_than_warnings_learns_why_jobs_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def end(jobs: Jobs, error: AcestageError | None) -> None:
        jobs.pipeline.error = error
        with contextlib.suppress(AcestageError):
            await jobs.listen(jobs.runner.start(REQUEST, SIZE, None))

    async def scenario() -> None:
        jobs = Jobs(queue_max_count=0)
        running = jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.running_count)
        await end(jobs, None)  # the queue is full
        await jobs.runner.stop(running)
        jobs.pipeline.finish.set()
        await end(jobs, None)
        await end(jobs, InvalidArgumentError("no such model"))
        await end(jobs, WorkerCrashedError("dit died"))
        await jobs.runner.close()

    with caplog.at_level(logging.WARNING):
        run(scenario())
    (record,) = caplog.records
    assert record.getMessage() == "job failed after 0.0 s: dit died"
    assert record.__dict__["reason"] == "WORKER_CRASHED"


def test_a_defect_is_logged_once_and_its_listeners_learn_where_to_look(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        jobs = Jobs()
        jobs.pipeline.error = ZeroDivisionError("secret")
        jobs.pipeline.finish.set()
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        for _ in range(2):
            with pytest.raises(InternalError, match=f"log of orchestrator.*{job_id}") as caught:
                await jobs.listen(job_id)
            assert "secret" not in caught.value.message
        await jobs.runner.close()

    with caplog.at_level(logging.ERROR):
        run(scenario())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_job_whose_end_cannot_be_told_ends_all_the_same_and_leaves_its_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(job: EndedJob) -> None:
        raise OSError("too many open files")

    async def scenario() -> None:
        jobs = Jobs(queue_max_count=1, held_bytes=SIZE.audio_bytes, on_ended=fail)
        jobs.pipeline.finish.set()
        job_ids = [jobs.runner.start(REQUEST, SIZE, None) for _ in range(2)]
        for job_id in job_ids:
            with pytest.raises(InternalError, match=f"log of orchestrator.*{job_id}"):
                await jobs.listen(job_id)
        assert await jobs.runner.stop(job_ids[1]) == "INTERNAL"
        await jobs.runner.close()

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert [record.getMessage() for record in caplog.records] == ["job failed"] * 2


def test_what_keeps_the_end_of_a_failed_job_from_being_told_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(job: EndedJob) -> None:
        raise OSError("too many open files")

    async def scenario() -> None:
        jobs = Jobs(on_ended=fail)
        jobs.pipeline.error = WorkerCrashedError("dit died")
        jobs.pipeline.finish.set()
        with pytest.raises(WorkerCrashedError, match="dit died"):
            await jobs.listen(jobs.runner.start(REQUEST, SIZE, None))
        await jobs.runner.close()

    with caplog.at_level(logging.ERROR):
        run(scenario())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is OSError


def test_a_job_that_the_queue_refuses_says_so_and_is_not_kept() -> None:
    async def scenario() -> None:
        jobs = Jobs(queue_max_count=0)
        running = jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.running_count)
        refused = jobs.runner.start(REQUEST, SIZE, None)
        with pytest.raises(QueueFullError):
            await jobs.listen(refused)
        with pytest.raises(NotFoundError):
            await jobs.listen(refused)
        await jobs.runner.end(refused)
        assert await jobs.runner.stop(running) == "cancelled"
        await jobs.runner.close()

    run(scenario())


@contextmanager
def timers_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, Callable[[], None]]]]:
    """The delays and callbacks of the loop's timers, of which none is due."""
    noted: list[tuple[float, Callable[[], None]]] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay: float, callback: Callable[[], None], *arguments: object) -> asyncio.TimerHandle:
        if not arguments:
            noted.append((delay, callback))
        return call_later(3600, callback, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "call_later", note)
        yield noted


def test_an_ended_job_is_dropped_when_its_time_is_over_though_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        jobs = Jobs()
        jobs.pipeline.finish.set()
        job_id = jobs.runner.start(REQUEST, SIZE, None)
        with timers_noted(monkeypatch) as due:
            await jobs.listen(job_id)
        delay_s, prune = due[-1]
        assert delay_s == 60.0
        jobs.now = 60.0
        prune()
        with pytest.raises(NotFoundError):
            await jobs.listen(job_id)
        await jobs.runner.close()

    run(scenario())


def test_a_job_tells_how_long_it_took_with_its_wait_and_without() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        completed: list[pb.JobCompleted] = []

        async def write(response: pb.GenerateResponse) -> None:
            if response.HasField("completed"):
                completed.append(response.completed)

        first = jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.running_count == 1)
        second = jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.queued_count == 1)
        jobs.now = 5.0
        await jobs.runner.stop(first)
        await until(lambda: jobs.queue.running_count == 1)
        jobs.now = 7.0
        jobs.pipeline.finish.set()
        await jobs.runner.listen(second, write)
        (told,) = completed
        assert (seconds(told.total_time), seconds(told.run_time)) == (7.0, 2.0)
        assert jobs.history.recent()[0].total_s == 7.0
        await jobs.runner.close()

    run(scenario())


def test_closing_ends_every_job() -> None:
    async def scenario() -> None:
        jobs = Jobs(slot_count=2)
        for _ in range(3):
            jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.running_count == 2 and jobs.queue.queued_count == 1)
        await jobs.runner.close()
        assert jobs.history.counts["cancelled"] == 3

    run(scenario())


def test_jobs_run_side_by_side_only_as_far_as_their_logs_have_room_together() -> None:
    async def scenario() -> None:
        jobs = Jobs(slot_count=4, queue_max_count=4, held_bytes=2 * SIZE.audio_bytes)
        ids = [jobs.runner.start(REQUEST, SIZE, None) for _ in range(4)]
        await until(lambda: jobs.queue.queued_count == 2)
        assert jobs.queue.running_count == 2
        await jobs.runner.stop(ids[0])
        await until(lambda: jobs.queue.queued_count == 1)
        assert jobs.queue.running_count == 2
        jobs.pipeline.finish.set()
        await until(lambda: jobs.history.counts["succeeded"] == 3)
        await jobs.runner.close()

    run(scenario())


def test_a_queued_job_begins_when_a_slow_reader_has_left_room() -> None:
    async def scenario() -> None:
        jobs = Jobs(held_bytes=SIZE.audio_bytes)
        reads = asyncio.Event()

        async def read_slowly(response: pb.GenerateResponse) -> None:
            await reads.wait()

        jobs.pipeline.finish.set()
        first = jobs.runner.start(REQUEST, SIZE, None)
        reading = asyncio.create_task(jobs.runner.listen(first, read_slowly))
        await until(lambda: jobs.history.counts["succeeded"])
        jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.queued_count)
        reads.set()
        await reading
        await until(lambda: jobs.history.counts["succeeded"] == 2)
        await jobs.runner.close()

    run(scenario())


def test_a_queued_job_begins_when_a_reader_has_had_time_enough_though_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        jobs = Jobs(held_bytes=SIZE.audio_bytes)

        async def never(response: pb.GenerateResponse) -> None:
            await asyncio.Event().wait()

        jobs.pipeline.finish.set()
        first = jobs.runner.start(REQUEST, SIZE, None)
        with timers_noted(monkeypatch) as due:
            reading = asyncio.create_task(jobs.runner.listen(first, never))
            await until(lambda: jobs.history.counts["succeeded"])
        jobs.runner.start(REQUEST, SIZE, None)
        await until(lambda: jobs.queue.queued_count)
        delay_s, prune = due[-1]
        assert delay_s == READ_S
        jobs.now = READ_S
        prune()
        await until(lambda: jobs.history.counts["succeeded"] == 2)
        with pytest.raises(NotFoundError):
            await jobs.listen(first)
        reading.cancel()
        await jobs.runner.close()

    run(scenario())


def test_the_history_of_a_failed_job_tells_the_size_that_it_would_have_had() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        jobs.pipeline.error = WorkerCrashedError("dit died")
        jobs.pipeline.finish.set()
        request = pb.GenerateRequest(caption="piano", task="cover", source_id="a")
        jobs.runner.start(request, JobSize(duration_s=12.5, take_count=3), None)
        await until(lambda: jobs.history.recent())
        (ended,) = jobs.history.recent()
        assert (ended.duration_s, ended.batch_size) == (12.5, 3)
        await jobs.runner.close()

    run(scenario())
