"""What upstream's clients ask of a server: models, figures, whether it lives, samples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request

from acestage import __version__
from acestage.errors import InvalidArgumentError, UnavailableError
from services.gateway.rest.auth import require_key
from services.gateway.rest.bodies.body_docs import body_docs
from services.gateway.rest.bodies.request_body import checked_body
from services.gateway.rest.envelope import envelope
from services.gateway.rest.error_answers import error_responses
from services.gateway.rest.its_gateway import ItsGateway
from services.gateway.rest.orders.example_songs import SAMPLES
from services.gateway.rest.orders.song_fields import TEXT

STATUS_TIMEOUT_S = 5.0

router = APIRouter(tags=["ACE-Step"])
health_router = APIRouter(tags=["ACE-Step"])
_KEYED = [Depends(require_key)]
_NO_FIELDS = body_docs({}, is_needed=False)


@health_router.get("/health")
async def health() -> dict[str, Any]:
    """Whether the gateway lives; it asks nobody, and everybody may ask."""
    return envelope({"status": "ok", "service": "acestage", "version": __version__})


@router.get("/v1/models", dependencies=_KEYED, responses=error_responses(401, 503))
async def models(gateway: ItsGateway) -> dict[str, Any]:
    """Models that requests may name; the first is the default."""
    names = (await gateway.client.status(STATUS_TIMEOUT_S)).served_models
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "acestage"} for name in names],
    }


@router.get("/v1/model_inventory", dependencies=_KEYED, responses=error_responses(401, 503))
async def model_inventory(gateway: ItsGateway) -> dict[str, Any]:
    """The same with what upstream adds. Every model that is served is ready, so all are loaded."""
    return envelope(_inventory((await gateway.client.status(STATUS_TIMEOUT_S)).served_models))


@router.post(
    "/v1/init",
    responses=error_responses(400, 401, 413, 415, 429, 503),
    openapi_extra=body_docs({"model": TEXT}),
)
async def init(request: Request, gateway: ItsGateway) -> dict[str, Any]:
    """Upstream loads a model so; here every model that is served is ready, and requests name theirs.

    Raises:
        InvalidArgumentError: the model is not served.
    """
    async with checked_body(request) as body:
        wanted = body.values.get("model") or ""
        names = (await gateway.client.status(STATUS_TIMEOUT_S)).served_models
        if wanted and wanted not in names:
            raise InvalidArgumentError.at(
                "model", f"is {str(wanted)[:80]!r}, which is not served; accepted: {', '.join(names)}"
            )
        found = _inventory(names)
        loaded = wanted or found["default_model"]
        message = f"{loaded} is served; requests name it as their model. There is no language model."
        return envelope({"message": message, "loaded_model": loaded} | found)


def _inventory(names: Sequence[str]) -> dict[str, Any]:
    default = names[0] if names else ""
    return {
        "models": [{"name": name, "is_default": name == default, "is_loaded": True} for name in names],
        "default_model": default,
        "lm_models": [],
        "loaded_lm_model": None,
        "llm_initialized": False,
    }


@router.get("/v1/stats", dependencies=_KEYED, responses=error_responses(401, 503))
async def stats(gateway: ItsGateway) -> dict[str, Any]:
    """Figures of the orchestrator, whose queue all doors share."""
    queue = (await gateway.client.status(STATUS_TIMEOUT_S)).queue
    jobs = {
        "queued": queue.queued_count,
        "running": queue.running_count,
        "succeeded": queue.succeeded_count,
        "failed": queue.failed_count + queue.cancelled_count,
    }
    return envelope(
        {
            "jobs": {"total": sum(jobs.values()), **jobs},
            "queue_size": queue.queued_count,
            "queue_maxsize": queue.queue_max_count,
            "avg_job_seconds": gateway.book.pace.mean_run_s or 0.0,
        }
    )


@router.post(
    "/create_random_sample", responses=error_responses(400, 401, 413, 415, 429), openapi_extra=_NO_FIELDS
)
async def create_random_sample(request: Request) -> dict[str, Any]:
    """Caption, lyrics and metadata of a song, to begin with."""
    await _require_key(request)
    return envelope(random.choice(SAMPLES).to_dict())


@router.post(
    "/format_input", responses=error_responses(400, 401, 413, 415, 429, 503), openapi_extra=_NO_FIELDS
)
async def format_input(request: Request) -> dict[str, Any]:
    """Would have a language model improve caption and lyrics; none is served."""
    await _require_key(request)
    raise UnavailableError("format_input needs a language model, and none is served here")


async def _require_key(request: Request) -> None:
    if request.headers.get("content-type"):
        async with checked_body(request):
            return
    await require_key(request, request.headers.get("authorization"))
