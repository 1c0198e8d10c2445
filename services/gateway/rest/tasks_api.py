"""`/release_task` and `/query_result`: how clients of ACE-Step order songs and hear of them."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request

from acestage.errors import InvalidArgumentError, NotFoundError
from services.gateway.gateway import Gateway
from services.gateway.rest.envelope import envelope
from services.gateway.rest.order_fields import in_field_names, read_order
from services.gateway.rest.request_body import checked_body, parse_json
from services.gateway.rest.task_results import task_result, unknown_task

router = APIRouter()

MAX_QUERIED_COUNT = 1_000


@router.post("/release_task")
async def release_task(request: Request) -> dict[str, Any]:
    gateway: Gateway = request.app.state.gateway
    order = await read_order(request)
    try:
        job = await gateway.book.submit(order)
    except InvalidArgumentError as error:
        raise in_field_names(error) from error
    position = max(1, job.record.progress.queue_position)
    return envelope({"task_id": job.job_id, "status": "queued", "queue_position": position})


@router.post("/query_result")
async def query_result(request: Request) -> dict[str, Any]:
    gateway: Gateway = request.app.state.gateway
    async with checked_body(request) as body:
        task_ids = _task_ids(body.values.get("task_id_list"))
    results = []
    for task_id in task_ids:
        try:
            results.append(task_result(gateway.book.find(task_id).record))
        except NotFoundError:
            results.append(unknown_task(task_id))
    return envelope(results)


def _task_ids(value: Any) -> list[str]:
    name = "task_id_list"
    found = parse_json(value, name) if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(task_id, str) for task_id in found):
        shown = json.dumps(found)[:50]
        raise InvalidArgumentError.at(name, f"is {shown}; accepted: a list of ids, or one as JSON text")
    if len(found) > MAX_QUERIED_COUNT:
        raise InvalidArgumentError.at(name, f"has {len(found)} ids; accepted: up to {MAX_QUERIED_COUNT}")
    return found
