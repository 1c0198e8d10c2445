"""All jobs of the front doors, those of earlier starts too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from acestage.async_client import AsyncClient
from acestage.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from acestage.generation import GenerationEvent, JobQueued
from services.gateway.exports.export import check_edge_fade
from services.gateway.jobs.job import Job
from services.gateway.jobs.job_follower import CANCEL_TIMEOUT_S, JobFollower, ending
from services.gateway.jobs.order import JobOrder
from services.gateway.jobs.pace import Pace
from services.gateway.jobs.record import JobRecord, JobState, Progress, now
from services.gateway.jobs.work_done import PartTimes
from services.gateway.outputs.output_area import OutputArea
from services.gateway.strict_json import check_text
from services.runtime.processes.finishing import end

log = logging.getLogger(__name__)

SUBMIT_TIMEOUT_S = 30.0
MAX_KEY_LENGTH = 200
MAX_TITLE_LENGTH = 500
RETIRE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class _Keyed:
    order: JobOrder
    job: asyncio.Future[Job]


class JobBook:
    """Starts jobs at the orchestrator, follows them, and knows them until their files are dropped.

    Use it with `async with`: entering reads the records on disk and attaches to the jobs that ran when the
    last one ended. Leaving stops no job; the next start hears of them.

    Args:
        client: asks the orchestrator.
        area: where records and audio are kept.
    """

    def __init__(self, client: AsyncClient, area: OutputArea) -> None:
        self.pace = Pace()
        self._client = client
        self._area = area
        self._part_times = PartTimes()
        self._follower = JobFollower(client, area, self.pace, self._part_times)
        self._jobs: dict[str, Job] = {}
        self._followed: dict[asyncio.Task[None], Job] = {}  # those that have not ended
        self._keys: dict[str, _Keyed] = {}
        self._retiring: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        records = await asyncio.to_thread(self._area.read_records)
        for record in sorted(records, key=lambda record: record.created_at):
            self._part_times.add(record.stages)
            self._add(record)
        self._retiring = asyncio.create_task(self._retire_regularly())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = (*self._followed, self._retiring)
        await asyncio.gather(*(end(task) for task in tasks if task is not None))

    def jobs(self) -> list[Job]:
        """All jobs, the newest first."""
        return sorted(self._jobs.values(), key=lambda job: job.record.created_at, reverse=True)

    def find(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            NotFoundError: there is none, or its files were dropped.
        """
        if (job := self._jobs.get(job_id)) is not None:
            return job
        raise NotFoundError(f"job_id: no job {job_id[:50]!r} is known here", metadata={"job_id": job_id[:50]})

    async def submit(self, order: JobOrder, idempotency_key: str = "") -> Job:
        """Starts what was ordered; it is in the orchestrator's queue when this returns.

        The caller may be cancelled: what is in the queue by then is followed all the same.

        Args:
            order: what to make.
            idempotency_key: orders with the same key are one job.

        Raises:
            InvalidArgumentError: the request is wrong, or the key came with another order.
            QueueFullError: too many jobs wait.
            AcestageError: the orchestrator cannot take it.
        """
        _check(order)
        if not idempotency_key:
            return await asyncio.shield(asyncio.create_task(self._submit(order, "")))
        if len(idempotency_key) > MAX_KEY_LENGTH:
            raise InvalidArgumentError.at(
                "Idempotency-Key", f"has {len(idempotency_key)} characters; accepted: 1 to {MAX_KEY_LENGTH}"
            )
        known = self._keys.get(idempotency_key)
        if known is None:
            known = _Keyed(order, asyncio.create_task(self._submit(order, idempotency_key)))
            self._keys[idempotency_key] = known
            known.job.add_done_callback(lambda task: self._forget_failed(idempotency_key, task))
        elif not known.order.is_same(order):
            raise InvalidArgumentError.at(
                "Idempotency-Key",
                "came before with another request; accepted: a new key, or the same request",
            )
        return await asyncio.shield(known.job)

    async def cancel(self, job_id: str) -> Job:
        """Stops a job within one step or tile; returns when it has ended. An ended job stays as it is.

        Raises:
            NotFoundError: no such job.
            DeadlineExceededError: it has not ended in time.
        """
        job = self.find(job_id)
        if job.record.state.is_final:
            return job
        try:
            await self._client.cancel(job_id, CANCEL_TIMEOUT_S)
        except NotFoundError:
            log.info("job to cancel is not known to the orchestrator", extra={"job_id": job_id})
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await job.ended()
        except TimeoutError:
            raise DeadlineExceededError(f"job {job_id} has not ended within {CANCEL_TIMEOUT_S:g} s") from None
        return job

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        counts = dict.fromkeys(JobState, 0)
        for job in self._jobs.values():
            counts[job.record.state] += 1
        return counts

    def starts_in_s(self, queue_position: int) -> float | None:
        """Seconds until a job at `queue_position` (1 is next) starts, about; None where nothing is known."""
        running = [job.record for job in self._followed.values() if job.record.state is JobState.RUNNING]
        # The stages of one whose files are being written are free already.
        started = [one.started_at for one in running if one.started_at and not one.progress.is_writing]
        worked_s = [(now() - at).total_seconds() for at in started]
        return self.pace.wait_s(queue_position, worked_s)

    async def _submit(self, order: JobOrder, key: str) -> Job:
        events = self._client.stream(order.caption, **order.options | {"detached": True})
        try:
            async with asyncio.timeout(SUBMIT_TIMEOUT_S):
                first = await anext(events, None)
        except TimeoutError:
            await events.aclose()
            raise DeadlineExceededError(
                f"the orchestrator did not queue the job within {SUBMIT_TIMEOUT_S:g} s"
            ) from None
        if not isinstance(first, JobQueued):
            await events.aclose()
            raise InternalError("the orchestrator did not say which job it queued")
        place = Progress(queue_position=first.position)
        record = JobRecord(first.job_id, now(), order, progress=place, idempotency_key=key)
        try:
            await asyncio.to_thread(self._area.write_record, record)
        except OSError as error:
            await events.aclose()
            await self._client.cancel(first.job_id, CANCEL_TIMEOUT_S)
            raise FailedPreconditionError(
                f"output_dir: the job cannot be written to disk: {error.strerror}"
            ) from error
        job = Job(record, self._area.folder(first.job_id))
        self._jobs[job.job_id] = job
        self._follow(job, events, first)
        return job

    def _add(self, record: JobRecord) -> None:
        """Takes in a job of an earlier start; one that had not ended then is listened to again."""
        job = Job(record, self._area.folder(record.job_id))
        self._jobs[record.job_id] = job
        if record.idempotency_key:
            self._keys[record.idempotency_key] = _Keyed(record.order, _known(job))
        if record.state.is_final:
            job.events.close(ending(record))
        else:
            self._follow(job)

    def _follow(
        self,
        job: Job,
        events: AsyncGenerator[GenerationEvent, None] | None = None,
        first: JobQueued | None = None,
    ) -> None:
        task = asyncio.create_task(self._follower.follow(job, events, first))
        self._followed[task] = job
        task.add_done_callback(self._followed.pop)

    def _forget_failed(self, key: str, task: asyncio.Future[Job]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._keys.pop(key, None)

    async def _retire_regularly(self) -> None:
        while True:
            try:
                await self.retire()
            except OSError as error:
                log.error("outputs cannot be dropped: %s", error.strerror)
            await asyncio.sleep(RETIRE_EVERY_S)

    async def retire(self) -> None:
        """Drops jobs that are too old, or too many, with their files; never one that has not ended."""
        records = [job.record for job in self._jobs.values()]
        for job_id in await asyncio.to_thread(self._area.retire, records):
            job = self._jobs.pop(job_id)
            self._keys.pop(job.record.idempotency_key, None)


def _check(order: JobOrder) -> None:
    """What reaches no field of the orchestrator's request, and yet goes into records, tags and files."""
    check_edge_fade(order.edge_fade_ms)
    if len(order.title) > MAX_TITLE_LENGTH:
        raise InvalidArgumentError.at(
            "title", f"has {len(order.title)} characters; accepted: up to {MAX_TITLE_LENGTH}"
        )
    check_text({"title": order.title, "notes": order.notes})


def _known(job: Job) -> asyncio.Future[Job]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(job)
    return future
