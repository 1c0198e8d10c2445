"""`/v1/uploads`: audio that requests work on; `/v1/settings/restore`: settings that files carry."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from acestage.audio import Audio
from acestage.errors import InvalidArgumentError
from services.gateway.exports.stored_settings import read_settings
from services.gateway.rest.auth import require_key
from services.gateway.rest.bodies.form_body import multipart_form
from services.gateway.rest.error_answers import error_responses
from services.gateway.rest.its_gateway import ItsGateway
from services.gateway.rest.orders.source_audio import send
from services.gateway.strict_json import check_text

SPOOL_BYTES = 1 << 20
"""What is larger goes to disk as it comes."""

router = APIRouter(prefix="/v1", tags=["Uploads"], dependencies=[Depends(require_key)])
_FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class AudioAnswer(BaseModel):
    """Uploaded audio, as the model gets it."""

    audio_id: str
    path: str = Field(description="For `src_audio_path` and `reference_audio_path`; the id will do, too.")
    duration_s: float
    sample_rate_hz: int
    channel_count: int
    original_format: str
    original_sample_rate_hz: int
    original_channel_count: int
    peak: float
    rms: float
    warnings: list[str]

    @classmethod
    def of(cls, audio: Audio) -> AudioAnswer:
        facts = audio.to_dict() | {"path": f"/v1/uploads/{audio.audio_id}"}
        return cls(**{name: facts[name] for name in cls.model_fields})


@router.post(
    "/uploads",
    status_code=201,
    responses=error_responses(400, 401, 413, 429, 503),
    openapi_extra=_FILE_BODY,
)
async def upload(request: Request, gateway: ItsGateway) -> AudioAnswer:
    """Takes an audio file: the part `file` of a form, or the body itself. The same audio has the same id."""
    with gateway.uploads.take():
        async with _file(request) as file:
            return AudioAnswer.of(await send(gateway.client, file, "file"))


@router.get("/uploads/{audio_id}", responses=error_responses(401, 404, 503))
async def get_upload(gateway: ItsGateway, audio_id: str) -> AudioAnswer:
    return AudioAnswer.of(await gateway.client.audio(audio_id))


@router.delete("/uploads/{audio_id}", status_code=204, responses=error_responses(401, 404, 503))
async def delete_upload(gateway: ItsGateway, audio_id: str) -> None:
    """Drops uploaded audio; jobs that use it go on."""
    await gateway.client.delete_audio(audio_id)


@router.post("/settings/restore", responses=error_responses(400, 401, 413, 429), openapi_extra=_FILE_BODY)
async def restore(request: Request, gateway: ItsGateway) -> dict[str, Any]:
    """The settings in the tags of a file that was made here, or in the `.json` beside it."""
    with gateway.uploads.take():
        async with _file(request) as file:
            return await asyncio.to_thread(_settings_in, file)


def _settings_in(file: BinaryIO) -> dict[str, Any]:
    settings = read_settings(file)
    check_text({"file": settings})
    return settings


@asynccontextmanager
async def _file(request: Request) -> AsyncIterator[BinaryIO]:
    """The file that came; it is gone after the block."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with multipart_form(request, max_file_count=1) as form:
            part = form.get("file")
            if not isinstance(part, UploadFile):
                raise InvalidArgumentError.at(
                    "file", "is missing; accepted: an audio file as this part of a form"
                )
            yield part.file
        return
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spooled:
        async for chunk in request.stream():
            await asyncio.to_thread(spooled.write, chunk)
        if not spooled.tell():
            raise InvalidArgumentError.at("file", "is empty; accepted: an audio file")
        spooled.seek(0)
        yield spooled  # type: ignore[misc]
