"""Jobs at work: each is a task of its own, which its log and its listeners outlive."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from acestage import errors
from acestage.protobuf_times import duration
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.status import CANCELLED, FAILED, SUCCEEDED, EndedJob
from services.orchestrator.jobs.job_history import JobHistory
from services.orchestrator.jobs.job_log import JobEnd, JobLog, Write
from services.orchestrator.jobs.job_queue import JobQueue
from services.orchestrator.jobs.job_registry import JobRegistry, LogBounds
from services.orchestrator.jobs.job_size import JobSize
from services.orchestrator.pipeline import Pipeline, Result
from services.orchestrator.stage_clients import Deadline
from services.runtime.processes.finishing import settled
from services.runtime.processes.process_memory import measure
from services.runtime.processes.request_context import request_id

log = logging.getLogger(__name__)

LISTENER_TIMEOUT_S = 300.0
"""A client that reads nothing for so long is given up."""

DEADLINE_SLACK_S = 0.1
"""A job that is cancelled so shortly before its caller's time is over is cancelled for that."""

_NO_FAULTS = (errors.CancelledError, errors.QueueFullError, errors.InvalidArgumentError)
"""How a job may end though all is well here."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What a job that succeeded leaves; `run_s` since it left the queue."""

    result: Result
    run_s: float


class JobRunner:
    """Starts jobs, stops them, and lets clients listen to them.

    Args:
        clock: seconds, of a clock that never goes back.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        queue: JobQueue,
        history: JobHistory,
        *,
        bounds: LogBounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._queue = queue
        self._history = history
        self._registry = JobRegistry(bounds or LogBounds())
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[_Done]] = {}
        self._stopping: set[str] = set()
        self._next_pruning: asyncio.TimerHandle | None = None

    def start(self, request: pb.GenerateRequest, size: JobSize, timeout_s: float | None) -> str:
        """Queues a checked `request` as a job and returns its id; it fails after `timeout_s`.

        It begins when it is its turn and its log has room for what `size` says.
        """
        job_log = JobLog(uuid.uuid4().hex[:12])
        self._registry.add(job_log)
        asked_s = self._clock()
        deadline = Deadline.after(timeout_s)
        task = asyncio.create_task(self._run(job_log, request, size, deadline))
        self._tasks[job_log.job_id] = task
        task.add_done_callback(lambda task: self._conclude(job_log, size, asked_s, deadline, task))
        return job_log.job_id

    async def listen(self, job_id: str, write: Write) -> None:
        """Writes all events of a job, from the first on, until its end.

        Raises:
            NotFoundError: the job is not known, or not any more.
            AcestageError: the job's own error.
            DeadlineExceededError: the client read nothing for `LISTENER_TIMEOUT_S`, or was still reading long
                after the end as others needed the room.
        """
        try:
            await self._registry.find(job_id).send(write, timeout_s=LISTENER_TIMEOUT_S)
        finally:
            self._prune()

    async def stop(self, job_id: str) -> str:
        """Cancels a job unless it has ended, and returns its outcome once it has.

        Raises:
            NotFoundError: the job is not known, or not any more.
        """
        job_log = self._registry.find(job_id)
        await self.end(job_id)
        assert job_log.ended is not None
        return job_log.ended.outcome

    async def end(self, job_id: str) -> None:
        """Cancels a job, if there is one, and returns once it has ended, however often we are cancelled."""
        if (task := self._tasks.get(job_id)) is None:
            return
        if job_id not in self._stopping:  # a second cancellation would cut its cleanup short
            self._stopping.add(job_id)
            task.cancel()
        await settled(task)

    async def close(self) -> None:
        """Cancels all jobs and returns once they have ended."""
        await asyncio.gather(*(self.end(job_id) for job_id in tuple(self._tasks)))
        if self._next_pruning is not None:
            self._next_pruning.cancel()

    async def _run(
        self, job_log: JobLog, request: pb.GenerateRequest, size: JobSize, deadline: Deadline
    ) -> _Done:
        def on_position(position: int) -> None:
            queued = pb.JobQueued(job_id=job_log.job_id, position=position)
            job_log.append(pb.GenerateResponse(queued=queued))

        def may_begin() -> bool:
            return self._registry.begin(job_log, size.audio_bytes, self._clock())

        # Held while it waits, too: nothing that was there when it was accepted is dropped before its turn.
        with self._pipeline.hold(request.source_id, request.reference_id) as audio:
            async with self._queue.turn(on_position, may_begin):
                begun_s = self._clock()
                result = await self._pipeline.run(request, audio, job_log.append, deadline)
                return _Done(result, self._clock() - begun_s)

    def _conclude(
        self, job_log: JobLog, size: JobSize, asked_s: float, deadline: Deadline, task: asyncio.Task[_Done]
    ) -> None:
        """Ends the job's log, whatever else fails: listeners wait for that, and it frees the log's room."""
        del self._tasks[job_log.job_id]
        self._stopping.discard(job_log.job_id)
        error = _error(job_log.job_id, task, deadline)
        done = None if error else task.result()
        try:
            self._tell_end(job_log, size, error, done, self._clock() - asked_s)
        except Exception as defect:
            logged = _defect(job_log.job_id, defect)
            error = error or logged
        finally:
            job_log.end(JobEnd(_outcome(error), self._clock(), error))
            self._prune()

    def _tell_end(
        self,
        job_log: JobLog,
        size: JobSize,
        error: errors.AcestageError | None,
        done: _Done | None,
        total_s: float,
    ) -> None:
        """Writes how the job ended into the history, our log and, where it succeeded, its own."""
        outcome = _outcome(error)
        ended = _ended_job(job_log.job_id, size, done.result if done else None, outcome, total_s)
        self._history.add(ended)
        fields = {"job_id": ended.job_id} | ({"reason": outcome} if ended.kind == FAILED else {})
        if error is None or isinstance(error, _NO_FAULTS):
            log.info("job %s after %.1f s", ended.kind, ended.total_s, extra=fields)
        else:
            log.warning("job failed after %.1f s: %s", ended.total_s, error.message, extra=fields)
        if done is not None:
            job_log.append(pb.GenerateResponse(completed=_completed(job_log.job_id, done, total_s)))

    def _prune(self) -> None:
        """Drops logs that are due, now and again when the next one is; their room may be another job's."""
        if self._next_pruning is not None:
            self._next_pruning.cancel()
        next_s = self._registry.prune(self._clock())
        loop = asyncio.get_running_loop()
        self._next_pruning = None if next_s is None else loop.call_later(next_s, self._prune)
        self._queue.admit()


def _error(job_id: str, task: asyncio.Task[_Done], deadline: Deadline) -> errors.AcestageError | None:
    """Why the job has no result; a defect goes to the log, and its listeners learn where to look."""
    if task.cancelled():
        if deadline.within_s(DEADLINE_SLACK_S) < DEADLINE_SLACK_S:  # gRPC cancels the caller's own call then
            return errors.DeadlineExceededError(
                f"job {job_id}: the time that the caller allowed was over", metadata={"job_id": job_id}
            )
        return errors.CancelledError(f"job {job_id} was cancelled", metadata={"job_id": job_id})
    match task.exception():
        case None:
            return None
        case errors.AcestageError() as error:
            return copy.copy(error)  # without the frames that it passed through, and what they hold
        case defect:
            return _defect(job_id, defect)


def _defect(job_id: str, defect: BaseException) -> errors.InternalError:
    """What listeners learn of a defect, which goes to the log."""
    log.error("job failed", exc_info=defect, extra={"job_id": job_id})
    return errors.InternalError(
        f"internal error, see the log of orchestrator; request_id={request_id()}, job_id={job_id}",
        metadata={"service": "orchestrator", "job_id": job_id},
    )


def _outcome(error: errors.AcestageError | None) -> str:
    match error:
        case None:
            return SUCCEEDED
        case errors.CancelledError():
            return CANCELLED
        case _:
            return error.reason


def _completed(job_id: str, done: _Done, total_s: float) -> pb.JobCompleted:
    # Not in a thread, in whose time a job that is done could be cancelled. It takes 1 to 25 ms.
    memory = measure("orchestrator")
    return pb.JobCompleted(
        job_id=job_id,
        tracks=done.result.tracks,
        settings=done.result.settings,
        total_time=duration(total_s),
        run_time=duration(done.run_s),
        orchestrator_memory=memory.to_pb() if memory else None,
        clamped=[clamped.to_pb() for clamped in done.result.clamped],
        decode_cost=done.result.decode_cost,
    )


def _ended_job(job_id: str, size: JobSize, result: Result | None, outcome: str, total_s: float) -> EndedJob:
    """What to remember of a job; a job without a result is described by what it would have made."""
    return EndedJob(
        job_id=job_id,
        ended_at=datetime.now(UTC),
        total_s=total_s,
        outcome=outcome,
        duration_s=result.settings.duration_s if result else size.duration_s,
        batch_size=result.settings.batch_size if result else size.take_count,
    )
