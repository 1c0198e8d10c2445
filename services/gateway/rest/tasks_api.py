"""Upstream's tasks: start one, ask how it is, fetch its audio."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse

from acestage.errors import InvalidArgumentError, NotFoundError
from services.gateway.exports.formats import ExportFormat
from services.gateway.gateway import Gateway
from services.gateway.rest.auth import require_key
from services.gateway.rest.bodies.body_docs import body_docs, song_docs
from services.gateway.rest.bodies.request_body import checked_body
from services.gateway.rest.envelope import envelope
from services.gateway.rest.error_answers import error_responses
from services.gateway.rest.finished_file import ANSWERS, FinishedFile
from services.gateway.rest.its_gateway import ItsGateway
from services.gateway.rest.orders.field_values import FieldValues
from services.gateway.rest.orders.order_submission import submit
from services.gateway.rest.orders.request_fields import RequestFields
from services.gateway.rest.orders.song_fields import NAMES
from services.gateway.rest.task_result import task_answer, unknown_task_answer

MAX_TASK_COUNT = 500
"""That one query may ask for."""
_TASK_IDS = f"a list of 1 to {MAX_TASK_COUNT} ids, or one as JSON text"

router = APIRouter(tags=["ACE-Step"])
_MEDIA_TYPES = {audio_format.suffix: audio_format.media_type for audio_format in ExportFormat}


@router.post(
    "/release_task", responses=error_responses(400, 401, 413, 415, 429, 503), openapi_extra=song_docs()
)
async def release_task(request: Request) -> dict[str, Any]:
    """Queues a song; JSON, multipart or urlencoded, under any name that upstream's clients use.

    They send all of their fields with every task: those of other tasks are left out.
    """
    job = await submit(request, is_forgiving=True)
    position = max(1, job.record.progress.queue_position)
    return envelope({"task_id": job.job_id, "status": "queued", "queue_position": position})


@router.post(
    "/query_result",
    responses=error_responses(400, 401, 413, 415, 429),
    openapi_extra=body_docs({"task_id_list": NAMES}, required=["task_id_list"]),
)
async def query_result(request: Request, gateway: ItsGateway) -> dict[str, Any]:
    """How tasks are: status 0 waits or runs, 1 is done, 2 failed; `result` is JSON in a text."""
    async with checked_body(request) as body:
        values = FieldValues(RequestFields(body.values))
        task_ids = values.names("task_id_list", _TASK_IDS)
        values.done()
    if task_ids is None or len(task_ids) > MAX_TASK_COUNT:
        given = "is missing" if task_ids is None else f"has {len(task_ids)} ids"
        raise InvalidArgumentError.at("task_id_list", f"{given}; accepted: {_TASK_IDS}")
    default_model = await gateway.models.default()
    return envelope([_answer(gateway, task_id, default_model) for task_id in task_ids])


@router.head("/v1/audio", include_in_schema=False, dependencies=[Depends(require_key)])
@router.get(
    "/v1/audio",
    response_class=FileResponse,
    responses={**ANSWERS, **error_responses(401, 403, 404, 422)},
    dependencies=[Depends(require_key)],
)
async def audio(
    gateway: ItsGateway, path: Annotated[str, Query(description="As a result has it in `file`.")]
) -> FinishedFile:
    """A file of a finished song. Takes ranges."""
    found = await asyncio.to_thread(gateway.area.find, path)
    return FinishedFile(found, _MEDIA_TYPES.get(found.suffix), found.name)


def _answer(gateway: Gateway, task_id: str, default_model: str) -> dict[str, Any]:
    try:
        return task_answer(gateway.book.find(task_id).record, default_model)
    except NotFoundError:
        return unknown_task_answer(task_id)
