"""Listens to a job of the orchestrator until its end, and writes down what it hears."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, replace

from acestage.async_client import AsyncClient
from acestage.errors import AcestageError, CancelledError, NotFoundError, UnavailableError
from acestage.generation import AudioChunk, Generation, GenerationEvent, JobQueued
from acestage.orchestrator_errors import orchestrator_at
from services.gateway.jobs.job import Job, JobEvent
from services.gateway.jobs.job_events import JobCourse, plain, to_job_event
from services.gateway.jobs.pace import Pace
from services.gateway.jobs.record import Failure, JobRecord, JobState, Progress, now
from services.gateway.jobs.work_done import PartTimes, WorkDone
from services.gateway.outputs.output_area import OutputArea
from services.gateway.outputs.takes import write_takes

log = logging.getLogger(__name__)

RECONNECT_S = 60.0
"""For so long an orchestrator may be away; its jobs are gone when it was started anew."""
RECONNECT_PAUSE_S = 1.0
CANCEL_TIMEOUT_S = 60.0


class JobFollower:
    """Follows jobs, one call for each.

    Args:
        client: asks the orchestrator.
        area: where records and audio go.
        pace: hears how long jobs took.
        part_times: and how long each part of them.
    """

    def __init__(self, client: AsyncClient, area: OutputArea, pace: Pace, part_times: PartTimes) -> None:
        self._client = client
        self._area = area
        self._pace = pace
        self._part_times = part_times

    async def follow(
        self,
        job: Job,
        events: AsyncGenerator[GenerationEvent, None] | None = None,
        first: JobQueued | None = None,
    ) -> None:
        """Follows `job` to its end, and keeps its record on disk.

        Args:
            job: what to follow.
            events: those of the call that started it; None attaches to it.
            first: the one that was read from them already.
        """
        has_audio = bool(job.record.order.options.keys() & {"source_id", "reference_id"})
        course = JobCourse(WorkDone(self._part_times.expected_s(), has_audio))
        try:
            if first is not None:
                await self._hear(job, first, course)
            record = await self._until_end(job, events, course, 0 if first is None else 1)
        except OSError as error:
            record = await self._give_up(job, error)
        except Exception:  # a defect of ours must not leave a job that never ends
            log.exception("job cannot be followed", extra={"job_id": job.job_id})
            record = job.record.failed("INTERNAL", "the gateway failed at this job; its log says how", now())
        finally:
            # Also when we are stopped: the next start attaches, and hears all of it again.
            job.close_takes(are_whole=False)
        await self._end(job, record)

    async def _until_end(
        self,
        job: Job,
        events: AsyncGenerator[GenerationEvent, None] | None,
        course: JobCourse,
        heard_count: int,
    ) -> JobRecord:
        """The record of the end. Of the job's events the first `heard_count` were heard; who attaches gets
        them again."""
        away_since: float | None = None
        while True:
            try:
                number = 0 if events is None else heard_count
                async with aclosing(events or self._client.attach(job.job_id)) as heard:
                    async for event in heard:
                        away_since = None
                        number += 1
                        if isinstance(event, Generation):
                            return await self._succeeded(job, event)
                        if number > heard_count:
                            await self._hear(job, event, course)
                            heard_count = number
                return job.record.failed("INTERNAL", "the orchestrator ended the job without a result", now())
            except CancelledError as error:
                failure = Failure(error.reason, error.message)
                return replace(job.record, state=JobState.CANCELLED, failure=failure, ended_at=now())
            except NotFoundError:
                return job.record.failed(
                    "JOB_LOST", "the orchestrator was started anew and does not know this job any more", now()
                )
            except UnavailableError as error:
                away_since = time.monotonic() if away_since is None else away_since
                # Else the job says so of one of its stages.
                is_ours = error.metadata.get("target") == orchestrator_at(self._client.target)
                if not is_ours or time.monotonic() - away_since > RECONNECT_S:
                    return job.record.failed(error.reason, error.message, now())
                await asyncio.sleep(RECONNECT_PAUSE_S)
            except AcestageError as error:
                return job.record.failed(error.reason, error.message, now())
            events = None

    async def _hear(self, job: Job, event: GenerationEvent, course: JobCourse) -> None:
        record = job.record
        progress = course.after(record.progress, event, time.monotonic())
        if isinstance(event, JobQueued):
            if event.position == 0 and record.state is JobState.QUEUED:
                record = replace(record, state=JobState.RUNNING, started_at=now())
                await asyncio.to_thread(self._area.write_record, record)
        elif isinstance(event, AudioChunk):
            await job.begin_take(event.item_index).write(event.start_sample, event.samples)
        job.update(replace(record, progress=progress))
        job.events.append(to_job_event(event))

    async def _succeeded(self, job: Job, generation: Generation) -> JobRecord:
        job.close_takes(are_whole=True)
        writing = replace(job.record.progress, is_waiting=False, stage_left_s=None, is_writing=True)
        job.update(replace(job.record, progress=writing))
        settings = plain(generation.settings.to_dict())
        record = replace(
            job.record,
            state=JobState.SUCCEEDED,
            progress=Progress(),
            settings=settings,
            run_s=generation.run_s,
            stages=tuple(plain(asdict(stage)) for stage in generation.stages),
            clamped=tuple(plain(asdict(clamped)) for clamped in generation.clamped),
        )
        takes = await asyncio.to_thread(write_takes, job.folder, record, generation.tracks)
        self._pace.add(generation.run_s)
        self._part_times.add(record.stages)
        return replace(record, takes=takes, ended_at=now())

    async def _give_up(self, job: Job, error: OSError) -> JobRecord:
        """The audio cannot be kept, so nobody needs it to be made."""
        log.error("job cannot be kept: %s", error.strerror, extra={"job_id": job.job_id})
        try:
            await self._client.cancel(job.job_id, CANCEL_TIMEOUT_S)
        except AcestageError as problem:
            log.warning("job could not be cancelled: %s", problem.message, extra={"job_id": job.job_id})
        text = f"output_dir: the audio cannot be written to disk: {error.strerror}"
        return job.record.failed("OUTPUT_NOT_WRITTEN", text, now())

    async def _end(self, job: Job, record: JobRecord) -> None:
        record = replace(record, event_count=job.events.count + 1)
        try:
            await asyncio.to_thread(self._area.write_record, record)
        except OSError as error:  # it holds until we are started again
            log.error("record cannot be written: %s", error.strerror, extra={"job_id": job.job_id})
        job.update(record)
        job.events.close(ending(record))
        fields = {"job_id": job.job_id} | ({"reason": record.failure.reason} if record.failure else {})
        log.info("job %s", record.state.value, extra=fields)


def ending(record: JobRecord) -> JobEvent:
    """The last event of a job, which is named like its final state."""
    failure = asdict(record.failure) if record.failure else {}
    return JobEvent(record.state.value, {"job_id": record.job_id} | failure)
