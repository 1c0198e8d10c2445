"""Stage events as protobuf, for the servicers of all stages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import grpc.aio

from acestage.errors import DeadlineExceededError
from acestage.protobuf_times import duration, timestamp
from acestage.protos.stage.v1 import stage_pb2
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.job_budget import Adaptation, AdaptationKind
from services.runtime.jobs.stage_event import Queued, Report, StageEvent, Started
from services.runtime.jobs.stage_runner import StageRunner
from services.runtime.processes.finishing import finish
from services.runtime.workers.messages import Message

ResponseT = TypeVar("ResponseT")

READER_TIMEOUT_S = 300.0
"""A client that reads nothing for so long is given up, or all that it was to read would lie here for ever.
The message that gRPC has by then, and the status behind it, lie there until the client reads or goes."""

_KIND_TO_PB = {
    AdaptationKind.SMALLER_TILE: stage_pb2.ADAPTATION_KIND_SMALLER_TILE,
    AdaptationKind.SPLIT_GUIDANCE: stage_pb2.ADAPTATION_KIND_SPLIT_GUIDANCE,
    AdaptationKind.INT8: stage_pb2.ADAPTATION_KIND_INT8,
    AdaptationKind.FLOAT32: stage_pb2.ADAPTATION_KIND_FLOAT32,
}


async def relay(
    runner: StageRunner,
    job: Message,
    context: grpc.aio.ServicerContext[Any, ResponseT],
    response_type: Callable[..., ResponseT],
    results: Callable[[Message], Iterable[ResponseT]],
    feed: Feed | None = None,
) -> None:
    """Runs `job` and writes its events to the call.

    Args:
        runner: runs the job.
        job: what the worker is to do.
        context: the call. When it is cancelled the work stops, and the device is free before this returns.
        response_type: a stage's response message: a `oneof` with `queued`, `started` and `report`.
        results: the responses for a message of the worker.
        feed: what comes of the job while it is worked on.

    Raises:
        DeadlineExceededError: the client read nothing for `READER_TIMEOUT_S`.
        AcestageError: the job's own error.
    """
    writing: asyncio.Future[None] | None = None
    try:
        async with contextlib.aclosing(runner.run(job, feed)) as events:
            async for event in events:
                for response in _responses(event, response_type, results):
                    writing = asyncio.ensure_future(context.write(response))
                    await asyncio.wait([writing], timeout=READER_TIMEOUT_S)
                    if not writing.done():
                        writing.cancel()
                        raise DeadlineExceededError(f"the client read nothing for {READER_TIMEOUT_S:g} s")
                    writing.result()
    finally:
        # gRPC takes no status, not even that of an error, while a message is on its way, and the caller would
        # wait for ever. By now the device is free, so a caller who reads slowly holds up nobody.
        if writing is not None:
            await finish(_written(writing))


def _responses(
    event: StageEvent,
    response_type: Callable[..., ResponseT],
    results: Callable[[Message], Iterable[ResponseT]],
) -> Iterable[ResponseT]:
    match event:
        case Queued():
            return [response_type(queued=queued_to_pb(event))]
        case Started():
            return [response_type(started=started_to_pb(event))]
        case Report():
            return [response_type(report=report_to_pb(event))]
        case Message():
            return results(event)


async def _written(writing: asyncio.Future[None]) -> None:
    """Waits for `writing`; raises a defect in it, but not that the caller is gone or reads nothing."""
    with contextlib.suppress(grpc.aio.BaseError, asyncio.CancelledError, TimeoutError):
        async with asyncio.timeout(READER_TIMEOUT_S):
            await writing


def queued_to_pb(event: Queued) -> stage_pb2.StageQueued:
    return stage_pb2.StageQueued(position=event.position)


def started_to_pb(event: Started) -> stage_pb2.StageStarted:
    return stage_pb2.StageStarted(
        lease_id=event.lease_id,
        fencing_token=event.fencing_token,
        device=event.device,
        dtype=event.dtype,
        lease_wait=duration(event.lease_wait_s),
        quantization=event.quantization,
        vram_bytes=event.vram_bytes,
        was_warm=event.was_warm,
    )


def report_to_pb(event: Report) -> stage_pb2.StageReport:
    return stage_pb2.StageReport(
        lease_id=event.lease_id,
        fencing_token=event.fencing_token,
        start_time=timestamp(event.started_at),
        end_time=timestamp(event.ended_at),
        load_time=duration(event.load_s),
        compute_time=duration(event.compute_s),
        kernels=event.kernels,
        processes=[memory.to_pb() for memory in event.processes],
        peak_device_bytes=event.peak_device_bytes,
        planned_bytes=event.planned_bytes,
        adaptations=[adaptation_to_pb(adaptation) for adaptation in event.adaptations],
    )


def adaptation_to_pb(adaptation: Adaptation) -> stage_pb2.Adaptation:
    return stage_pb2.Adaptation(
        kind=_KIND_TO_PB[adaptation.kind],
        before=adaptation.before,
        after=adaptation.after,
        cause=adaptation.cause,
    )
