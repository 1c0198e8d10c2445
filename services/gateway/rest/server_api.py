"""What the services are, and what they allow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from services.gateway.jobs.job_events import plain
from services.gateway.rest.auth import require_key
from services.gateway.rest.error_answers import error_responses
from services.gateway.rest.its_gateway import ItsGateway

router = APIRouter(tags=["Server"], dependencies=[Depends(require_key)])


@router.get("/v1/limits", responses=error_responses(400, 401, 503))
async def limits(gateway: ItsGateway, model: str = "") -> dict[str, Any]:
    """What a request may ask for, and what set each limit."""
    return (await gateway.client.limits(model=model)).to_dict()


@router.get("/v1/status", responses=error_responses(401, 503))
async def status(gateway: ItsGateway) -> dict[str, Any]:
    """Devices, lease holders, stages and their processes, queue, last jobs."""
    found: dict[str, Any] = plain(asdict(await gateway.client.status()))
    return found


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Figures of the gateway for Prometheus; the orchestrator has its own."""
    # In a thread of its own it would read what the event loop changes meanwhile.
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)
