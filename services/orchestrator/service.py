"""The gRPC face of the orchestrator: jobs in, events out."""

from __future__ import annotations

import asyncio
import logging
import uuid
from datetime import UTC, datetime

import grpc.aio
from google.protobuf import timestamp_pb2

from acestage import __version__, errors
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.protos.lease.v1 import lease_pb2
from services.orchestrator import requests
from services.orchestrator.job_history import CANCELLED, FAILED, SUCCEEDED, EndedJob, JobHistory
from services.orchestrator.job_queue import JobQueue
from services.orchestrator.lease_service import LeaseService
from services.orchestrator.outbox import Backlog, Outbox
from services.orchestrator.pipeline import Pipeline, Result
from services.orchestrator.stage_clients import Deadline, StageClient
from services.runtime.durations import duration
from services.runtime.finishing import end
from services.runtime.process_memory import measure

log = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 2.0

LISTENER_TIMEOUT_S = 300.0
"""A client that reads nothing for so long is given up, and its audio with it."""

MAX_BACKLOG_BYTES = 1 << 30
"""Ten minutes of music are 230 MB; beyond this, jobs wait until clients have read theirs."""

GenerateContext = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
LimitsContext = grpc.aio.ServicerContext[pb.GetLimitsRequest, pb.GetLimitsResponse]
StatusContext = grpc.aio.ServicerContext[pb.GetStatusRequest, pb.GetStatusResponse]


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Queues jobs and runs them; the events of a job go to host memory, so no listener holds it up."""

    def __init__(
        self, pipeline: Pipeline, queue: JobQueue, leases: LeaseService, history: JobHistory
    ) -> None:
        self._pipeline = pipeline
        self._queue = queue
        self._leases = leases
        self._history = history
        self._backlog = Backlog(MAX_BACKLOG_BYTES)
        self._started_at = datetime.now(UTC)

    async def Generate(self, request: pb.GenerateRequest, context: GenerateContext) -> None:  # type: ignore[override]
        limits = await self._pipeline.limits.ask(requests.item_count(request), request.model)
        lowered, _ = requests.lower(request, limits)
        requests.check(lowered, limits)
        self._backlog.check()
        job_id = uuid.uuid4().hex[:12]
        with Outbox(self._backlog) as outbox:
            task = asyncio.create_task(self._run(job_id, request, outbox, context.time_remaining()))
            task.add_done_callback(lambda _: outbox.end())
            try:
                await outbox.send(context.write, timeout_s=LISTENER_TIMEOUT_S)
                await task
            finally:
                await end(task)

    async def _run(
        self,
        job_id: str,
        request: pb.GenerateRequest,
        outbox: Outbox,
        timeout_s: float | None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        asked = clock()
        deadline = Deadline.after(timeout_s)
        outcome = errors.InternalError.reason  # what is not of our tree is a defect
        result: Result | None = None

        def on_position(position: int) -> None:
            outbox.put(pb.GenerateResponse(queued=pb.JobQueued(job_id=job_id, position=position)))

        try:
            async with self._queue.turn(on_position):
                begun = clock()
                result = await self._pipeline.run(request, outbox.put, deadline)
            outcome = SUCCEEDED
        except (asyncio.CancelledError, errors.CancelledError):
            outcome = CANCELLED
            raise
        except errors.AcestageError as error:
            outcome = error.reason
            raise
        finally:
            ended = _ended_job(job_id, request, result, outcome, clock() - asked)
            self._history.add(ended)
            fields = {"job_id": job_id, "reason": outcome} if ended.kind == FAILED else {"job_id": job_id}
            log.info("job %s after %.1f s", ended.kind, ended.total_s, extra=fields)
        memory = measure("orchestrator")
        completed = pb.JobCompleted(
            job_id=job_id,
            tracks=result.tracks,
            settings=result.settings,
            total_time=duration(clock() - asked),
            run_time=duration(clock() - begun),
            orchestrator_memory=memory.to_pb() if memory else None,
            clamped=[clamped.to_pb() for clamped in result.clamped],
        )
        outbox.put(pb.GenerateResponse(completed=completed))

    async def GetLimits(self, request: pb.GetLimitsRequest, context: LimitsContext) -> pb.GetLimitsResponse:
        return (await self._pipeline.limits.ask_known(request.model)).to_pb()

    async def GetStatus(self, request: pb.GetStatusRequest, context: StatusContext) -> pb.GetStatusResponse:
        return await self.status()

    async def status(self) -> pb.GetStatusResponse:
        """How things are; a stage that does not answer costs `STATUS_TIMEOUT_S`."""
        stages = await asyncio.gather(*(_stage_status(stage) for stage in self._pipeline.stages))
        start_time = timestamp_pb2.Timestamp()
        start_time.FromDatetime(self._started_at)
        memory = measure("orchestrator")
        return pb.GetStatusResponse(
            version=__version__,
            start_time=start_time,
            stages=stages,
            ledger=await self._leases.ListLeases(lease_pb2.ListLeasesRequest(), None),
            queue=pb.QueueStatus(
                running_count=self._queue.running_count,
                queued_count=self._queue.queued_count,
                queue_max_count=self._queue.max_count,
                succeeded_count=self._history.counts[SUCCEEDED],
                failed_count=self._history.counts[FAILED],
                cancelled_count=self._history.counts[CANCELLED],
            ),
            orchestrator_memory=memory.to_pb() if memory else None,
            recent_jobs=[job.to_pb() for job in self._history.recent()],
        )


def _ended_job(
    job_id: str, request: pb.GenerateRequest, result: Result | None, outcome: str, total_s: float
) -> EndedJob:
    """What to remember of a job; a job without a result is described by what was asked for."""
    asked_s = request.duration_s if request.HasField("duration_s") else requests.DEFAULT_DURATION_S
    return EndedJob(
        job_id=job_id,
        ended_at=datetime.now(UTC),
        total_s=total_s,
        outcome=outcome,
        duration_s=result.settings.duration_s if result else asked_s,
        batch_size=result.settings.batch_size if result else max(request.batch_size, 1),
    )


async def _stage_status(stage: StageClient) -> pb.StageStatus:
    try:
        info = await stage.info(STATUS_TIMEOUT_S)
    except errors.AcestageError as error:
        return pb.StageStatus(stage=stage.stage, target=stage.target, is_serving=False, error=error.message)
    return pb.StageStatus(stage=stage.stage, target=stage.target, is_serving=True, info=info)
