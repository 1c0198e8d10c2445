"""`/v1/jobs`: songs from order to audio."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse

from acestage.errors import InvalidArgumentError
from services.gateway.exports.formats import ExportFormat, parse_format
from services.gateway.exports.pictures import LARGEST_SIDE, peaks, spectrogram_png, waveform_svg
from services.gateway.exports.stored_samples import StoredSamples
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobRecord, JobState, Take
from services.gateway.outputs.export_shelf import check_take
from services.gateway.outputs.live_stream import encoded
from services.gateway.outputs.takes import MASTER_FORMAT, export_name, settings_of
from services.gateway.rest.auth import require_key
from services.gateway.rest.bodies.body_docs import song_docs
from services.gateway.rest.error_answers import error_responses
from services.gateway.rest.finished_file import ANSWERS, BINARY, KEPT, FinishedFile
from services.gateway.rest.its_gateway import ItsGateway
from services.gateway.rest.job_answer import JobAnswer, JobList, WaveformAnswer, job_answer
from services.gateway.rest.live_response import LiveResponse
from services.gateway.rest.orders.order_submission import submit

HEARTBEAT_S = 15.0
MAX_LISTED_COUNT = 200

router = APIRouter(tags=["Jobs"])
keyed = APIRouter(prefix="/v1/jobs", dependencies=[Depends(require_key)], responses=error_responses(401, 404))
_Take = Annotated[int, Query(ge=0, description="Number of the take, from 0.")]
_EVENT_ID = re.compile(r"\d{1,18}")


@router.post(
    "/v1/jobs",
    status_code=201,
    responses=error_responses(400, 401, 413, 415, 429, 503),
    openapi_extra=song_docs(),
)
async def start(
    request: Request,
    response: Response,
    gateway: ItsGateway,
    idempotency_key: Annotated[str, Header(description="Requests with the same one are one job.")] = "",
) -> JobAnswer:
    """Queues a song. The fields are those of `/release_task`, as JSON, multipart or urlencoded."""
    job = await submit(request, idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    return job_answer(job, gateway)


@keyed.get("", responses=error_responses(400))
async def list_jobs(
    gateway: ItsGateway,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED_COUNT)] = 50,
) -> JobList:
    """Jobs, the newest first."""
    jobs = [job for job in gateway.book.jobs() if state in (None, job.record.state)]
    return JobList(jobs=[job_answer(job, gateway) for job in jobs[:limit]], total_count=len(jobs))


@keyed.get("/{job_id}")
async def get_job(gateway: ItsGateway, job_id: str) -> JobAnswer:
    """How a job is."""
    return job_answer(gateway.book.find(job_id), gateway)


@keyed.delete("/{job_id}", responses=error_responses(503, 504))
async def cancel(gateway: ItsGateway, job_id: str) -> JobAnswer:
    """Stops a job within one step or tile; one that has ended stays as it is."""
    return job_answer(await gateway.book.cancel(job_id), gateway)


@keyed.get(
    "/{job_id}/events",
    status_code=200,
    response_class=LiveResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The job has ended, and all of it was heard."},
        **error_responses(400, 429),
    },
)
async def events(
    gateway: ItsGateway,
    job_id: str,
    last_event_id: Annotated[str, Header(description="The number of the last event that was heard.")] = "",
) -> Response:
    """Everything that the orchestrator says of a job, from the first message on, as server-sent events."""
    job = gateway.book.find(job_id)
    if last_event_id and not _EVENT_ID.fullmatch(last_event_id):
        raise InvalidArgumentError.at("Last-Event-ID", f"is {last_event_id[:50]!r}; accepted: a number")
    if last_event_id and job.has_ended_with(int(last_event_id)):
        return Response(status_code=204)  # else browsers would connect again, for ever
    start_number = int(last_event_id) + 1 if last_event_id else 0
    return LiveResponse(_event_lines(job, start_number), "text/event-stream", gateway.event_streams)


@keyed.head("/{job_id}/audio", include_in_schema=False)
@keyed.get(
    "/{job_id}/audio",
    response_class=FileResponse,
    responses={200: {"content": {"audio/mpeg": BINARY}}, **ANSWERS, **error_responses(400, 409, 429)},
)
async def audio(
    request: Request,
    gateway: ItsGateway,
    job_id: str,
    audio_format: Annotated[str, Query(alias="format")] = "mp3",
    take: _Take = 0,
    download: Annotated[bool, Query(description="To be saved rather than played.")] = False,
) -> Response:
    """A take: the file with its tags, or, while the job goes on, what is there and then what comes."""
    wanted = parse_format(audio_format, gateway.formats, "format")
    job = gateway.book.find(job_id)

    async def file() -> FinishedFile:
        path = await gateway.shelf.find(job, take, wanted)
        name = _file_name(job, take, wanted, path.name)
        return FinishedFile(path, wanted.media_type, name, is_download=download)

    if job.record.state.is_final:
        return await file()
    _check_take_to_come(job, take)
    headers = {"Accept-Ranges": "none"}
    if request.method == "HEAD":
        return Response(media_type=wanted.stream_media_type, headers=headers)
    return LiveResponse(
        _live(job, take, wanted),
        wanted.stream_media_type,
        gateway.live_streams,
        headers,
        otherwise=file,
        # Who waits for its turn in the queue is not to think that nobody answers.
        begins_at_once=not job.record.progress.is_writing,
    )


@dataclass(frozen=True, slots=True)
class _Finished:
    """A take that is there."""

    record: JobRecord
    take: Take
    master: Path


async def _finished(gateway: ItsGateway, job_id: str, take: _Take = 0) -> _Finished:
    """A dependency of routes about a take that must be finished.

    Raises:
        NotFoundError: there is no such job.
        InvalidArgumentError: it has no such take.
        FailedPreconditionError: it has made no audio.
    """
    job = gateway.book.find(job_id)
    check_take(job, take)
    found = job.record.takes[take]
    return _Finished(job.record, found, job.folder / found.master)


_ItsFinished = Annotated[_Finished, Depends(_finished)]
_FAULTS = error_responses(400, 409)


def _picture(media_type: str) -> dict[str, Any]:
    """What the description of a route that answers a picture says."""
    return {"response_class": Response, "responses": {200: {"content": {media_type: BINARY}}, **_FAULTS}}


@keyed.get("/{job_id}/waveform", responses=_FAULTS)
def waveform(
    found: _ItsFinished, count: Annotated[int, Query(ge=1, le=LARGEST_SIDE)] = 1_000
) -> WaveformAnswer:
    """The outline of a finished take: the least and the largest sample of `count` equal parts."""
    with StoredSamples(found.master) as samples:
        outline = peaks(samples, count)
    return WaveformAnswer(duration_s=found.take.duration_s, peaks=outline.round(4).tolist())


@keyed.get("/{job_id}/waveform.svg", **_picture("image/svg+xml"))
def waveform_picture(
    found: _ItsFinished, count: Annotated[int, Query(ge=1, le=LARGEST_SIDE)] = 600
) -> Response:
    """The same as a drawing, of `count` columns."""
    with StoredSamples(found.master) as samples:
        svg = waveform_svg(peaks(samples, count))
    return Response(svg, media_type="image/svg+xml", headers=KEPT)


@keyed.get("/{job_id}/spectrogram.png", **_picture("image/png"))
def spectrogram(
    found: _ItsFinished,
    width: Annotated[int, Query(ge=16, le=2_048)] = 1_000,
    height: Annotated[int, Query(ge=16, le=1_024)] = 200,
) -> Response:
    """Time to the right, frequency upwards."""
    with StoredSamples(found.master) as samples:
        png = spectrogram_png(samples, found.take.sample_rate_hz, width, height)
    return Response(png, media_type="image/png", headers=KEPT)


@keyed.get("/{job_id}/settings", responses=_FAULTS)
async def settings(found: _ItsFinished) -> dict[str, Any]:
    """All settings of a finished take, with which it can be made again."""
    return settings_of(found.record, found.take.seed)


router.include_router(keyed)


def _file_name(job: Job, take: int, audio_format: ExportFormat, name: str) -> str:
    """Masters have short names on disk, and that of the song for people."""
    return export_name(job.record, take, audio_format) if audio_format is MASTER_FORMAT else name


def _check_take_to_come(job: Job, take: int) -> None:
    take_count = job.record.order.take_count
    if take >= take_count:
        raise InvalidArgumentError.at("take", f"is {take}; accepted: 0 to {take_count - 1}")


async def _live(job: Job, take: int, audio_format: ExportFormat) -> AsyncGenerator[bytes, None]:
    """The take from its first sample on, once it begins.

    Where it does not, as its files are being written or the job fails, nothing, once that is over.
    """
    while (live := job.live_take(take)) is None:
        if job.record.state.is_final:
            return
        await job.changed()
    async with aclosing(encoded(live, audio_format)) as parts:
        async for part in parts:
            yield part


async def _event_lines(job: Job, start_number: int) -> AsyncGenerator[bytes, None]:
    async with aclosing(job.events.follow(max(start_number - job.first_event, 0))) as heard:
        pending: asyncio.Task[tuple[int, Any]] | None = None
        try:
            while True:
                pending = pending or asyncio.ensure_future(_next(heard))
                done, _ = await asyncio.wait([pending], timeout=HEARTBEAT_S)
                if not done:
                    yield b": still here\n\n"
                    continue
                try:
                    number, event = pending.result()
                except StopAsyncIteration:
                    return
                pending = None
                number += job.first_event
                yield f"id: {number}\nevent: {event.name}\ndata: {json.dumps(event.data)}\n\n".encode()
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.wait([pending])


async def _next(heard: AsyncIterator[tuple[int, Any]]) -> tuple[int, Any]:
    return await anext(heard)
