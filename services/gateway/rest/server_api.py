"""What clients ask of the server: finished audio, its models, its load, whether it is there."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse

from acestage import __version__
from services.gateway.exports.formats import ExportFormat
from services.gateway.gateway import Gateway
from services.gateway.rest.envelope import envelope
from services.gateway.rest.request_body import checked_body
from services.gateway.rest.samples import SAMPLES

_MEDIA_TYPES = {audio_format.suffix: audio_format.media_type for audio_format in ExportFormat}


def require_key(request: Request) -> None:
    """For requests without a body.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
    """
    request.app.state.key.check(request.headers.get("authorization"))


open_router = APIRouter()
router = APIRouter(dependencies=[Depends(require_key)])
body_router = APIRouter()
"""Requests of which the body may hold the key."""


@open_router.get("/health")
async def health() -> dict[str, Any]:
    return envelope({"status": "ok", "service": "Acestage", "version": __version__})


@router.api_route("/v1/audio", methods=["GET", "HEAD"])
async def audio(request: Request, path: str) -> FileResponse:
    gateway: Gateway = request.app.state.gateway
    found = await asyncio.to_thread(gateway.area.find, path)
    return FileResponse(found, media_type=_MEDIA_TYPES.get(found.suffix), filename=found.name)


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    names = await _model_names(request)
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}


@router.get("/v1/model_inventory")
async def model_inventory(request: Request) -> dict[str, Any]:
    names = await _model_names(request)
    found = [{"name": name, "is_default": name == names[0], "is_loaded": True} for name in names]
    return envelope(
        {
            "models": found,
            "default_model": names[0] if names else None,
            "lm_models": [],
            "loaded_lm_model": None,
            "llm_initialized": False,
        }
    )


@router.get("/v1/stats")
async def stats(request: Request) -> dict[str, Any]:
    gateway: Gateway = request.app.state.gateway
    queue = (await gateway.client.status()).queue
    jobs = {
        "queued": queue.queued_count,
        "running": queue.running_count,
        "succeeded": queue.succeeded_count,
        "failed": queue.failed_count,
        "cancelled": queue.cancelled_count,
    }
    return envelope(
        {
            "jobs": {"total": sum(jobs.values())} | jobs,
            "queue_size": queue.queued_count,
            "queue_maxsize": queue.queue_max_count,
            "avg_job_seconds": gateway.book.pace.mean_run_s or 0.0,
        }
    )


@body_router.post("/create_random_sample")
async def create_random_sample(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type"):
        async with checked_body(request):
            pass
    else:
        require_key(request)
    return envelope(dict(random.choice(SAMPLES)))


@body_router.post("/format_input")
async def format_input(request: Request) -> dict[str, Any]:
    async with checked_body(request):
        raise HTTPException(503, "no language model is served, so nothing can rewrite captions and lyrics")


async def _model_names(request: Request) -> list[str]:
    """The models that every stage which answers serves; the first is the default."""
    gateway: Gateway = request.app.state.gateway
    stages = [stage for stage in (await gateway.client.status()).stages if stage.is_serving]
    if not stages:
        return []
    shared = [{model.name for model in stage.models} for stage in stages]
    return [model.name for model in stages[0].models if all(model.name in names for names in shared)]
