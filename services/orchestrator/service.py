"""The gRPC face of the orchestrator: jobs in, events out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import grpc.aio

from acestage import __version__, errors
from acestage.protobuf_times import timestamp
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.protos.lease.v1 import lease_pb2
from acestage.status import CANCELLED, FAILED, SUCCEEDED
from services.orchestrator.jobs.job_history import JobHistory
from services.orchestrator.jobs.job_queue import JobQueue
from services.orchestrator.jobs.job_runner import JobRunner
from services.orchestrator.ledger.lease_service import LeaseService
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.song import audio_codes
from services.orchestrator.stage_clients import Deadline, StageClient
from services.runtime.processes.process_memory import measure

STATUS_TIMEOUT_S = 2.0

GenerateContext = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
AttachContext = grpc.aio.ServicerContext[pb.AttachJobRequest, pb.AttachJobResponse]
CodesContext = grpc.aio.ServicerContext[pb.GetAudioCodesRequest, pb.GetAudioCodesResponse]
CancelContext = grpc.aio.ServicerContext[pb.CancelJobRequest, pb.CancelJobResponse]
LimitsContext = grpc.aio.ServicerContext[pb.GetLimitsRequest, pb.GetLimitsResponse]
StatusContext = grpc.aio.ServicerContext[pb.GetStatusRequest, pb.GetStatusResponse]


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Checks requests, starts and stops jobs, and lets any number of clients listen to them."""

    def __init__(
        self, pipeline: Pipeline, queue: JobQueue, leases: LeaseService, history: JobHistory
    ) -> None:
        self._pipeline = pipeline
        self._queue = queue
        self._leases = leases
        self._history = history
        self._jobs = JobRunner(pipeline, queue, history)
        pipeline.limits.watch_devices(queue.admit)  # on other devices, more jobs may be in work at a time
        self._started_at = datetime.now(UTC)

    async def Generate(self, request: pb.GenerateRequest, context: GenerateContext) -> None:  # type: ignore[override]
        size = await self._pipeline.check(request)
        job_id = self._jobs.start(request, size, None if request.detached else context.time_remaining())
        try:
            await self._jobs.listen(job_id, context.write)
        finally:
            if not request.detached:
                await self._jobs.end(job_id)

    async def AttachJob(self, request: pb.AttachJobRequest, context: AttachContext) -> None:  # type: ignore[override]
        async def write(event: pb.GenerateResponse) -> None:
            await context.write(pb.AttachJobResponse(event=event))

        await self._jobs.listen(request.job_id, write)

    async def CancelJob(self, request: pb.CancelJobRequest, context: CancelContext) -> pb.CancelJobResponse:
        return pb.CancelJobResponse(outcome=await self._jobs.stop(request.job_id))

    async def GetAudioCodes(
        self, request: pb.GetAudioCodesRequest, context: CodesContext
    ) -> pb.GetAudioCodesResponse:
        deadline = Deadline.after(context.time_remaining())
        with self._pipeline.hold(request.source_id) as audio:
            if audio.source is None:
                raise errors.InvalidArgumentError.at("source_id", "is empty; accepted: the id of an upload")
            await self._pipeline.check_codes(request)
            async with self._queue.turn(lambda position: None):
                codes = await self._pipeline.audio_codes(request, audio, deadline)
        return pb.GetAudioCodesResponse(audio_codes=audio_codes.join(codes))

    async def close(self) -> None:
        """Ends all jobs, those too whose calls have ended."""
        await self._jobs.close()

    async def GetLimits(self, request: pb.GetLimitsRequest, context: LimitsContext) -> pb.GetLimitsResponse:
        return (await self._pipeline.limits.ask_known(request.model)).to_pb()

    async def GetStatus(self, request: pb.GetStatusRequest, context: StatusContext) -> pb.GetStatusResponse:
        return await self.status()

    async def status(self) -> pb.GetStatusResponse:
        """How things are; a stage that does not answer costs `STATUS_TIMEOUT_S`."""
        stages = await asyncio.gather(*(_stage_status(stage) for stage in self._pipeline.stages))
        memory = await asyncio.to_thread(measure, "orchestrator")
        return pb.GetStatusResponse(
            version=__version__,
            start_time=timestamp(self._started_at),
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


async def _stage_status(stage: StageClient) -> pb.StageStatus:
    try:
        info = await stage.info(STATUS_TIMEOUT_S, with_memory=True)
    except errors.AcestageError as error:
        return pb.StageStatus(stage=stage.stage, target=stage.target, is_serving=False, error=error.message)
    return pb.StageStatus(stage=stage.stage, target=stage.target, is_serving=True, info=info)
