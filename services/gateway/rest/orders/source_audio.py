"""Audio that a request works on: files that it brings, or audio that was uploaded before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from acestage.async_client import AsyncClient
from acestage.audio import AUDIO_ID, Audio
from acestage.errors import InvalidArgumentError
from services.gateway.gateway import UPLOAD_TIMEOUT_S
from services.gateway.rest.bodies.request_body import RequestBody
from services.gateway.rest.orders.field_names import spellings
from services.gateway.rest.orders.field_values import FieldValues
from services.gateway.rest.orders.song_fields import read

FILES = ("src_audio", "reference_audio")
"""Parts of a multipart form."""


def named_audio(values: FieldValues, body: RequestBody, name: str) -> str | None:
    """The id of uploaded audio that field `name` says; None where it was not sent.

    It is an id, or a path that ends with one: no other file of this machine is ever read. A file in `body`
    wins over it, and then it is not looked at.
    """
    if find_file(body, name.removesuffix("_path")) is not None:
        return None
    found: str | None = read(values, name)
    if found is None:
        return None
    audio_id = found.strip().rpartition("/")[2]
    if AUDIO_ID.fullmatch(audio_id) is None:
        values.refuse(
            name,
            f"is {found[:50]!r}; accepted: audio that was uploaded here, by its id or the path that the "
            "upload returned; no other file of this machine is read",
        )
        return None
    return audio_id


@dataclass(frozen=True, slots=True)
class BroughtAudio:
    """Audio that a request brought itself, in the orchestrator's hands.

    Attributes:
        audio_id: what the orchestrator calls it.
        notes: for people: what is odd about it, by the name of its part.
    """

    audio_id: str
    notes: tuple[str, ...]


async def bring(client: AsyncClient, body: RequestBody, name: str) -> BroughtAudio | None:
    """Sends file `name` of `body` to the orchestrator; None where there is none.

    Raises:
        InvalidArgumentError: it is no audio, or too much of it.
        AcestageError: the orchestrator cannot take it.
    """
    spelling = find_file(body, name)
    if spelling is None:
        return None
    audio = await send(client, body.files[spelling].file, spelling)
    return BroughtAudio(audio.audio_id, tuple(f"{spelling}: {warning}" for warning in audio.warnings))


async def send(client: AsyncClient, file: BinaryIO, name: str) -> Audio:
    """Sends `file` to the orchestrator; what is wrong with it is said of field `name`.

    Raises:
        InvalidArgumentError: it is no audio, or too much of it.
        AcestageError: the orchestrator cannot take it.
    """
    try:
        return await client.upload(file, timeout_s=UPLOAD_TIMEOUT_S)
    except InvalidArgumentError as error:
        text = "; ".join(violation.description for violation in error.violations) or error.message
        raise InvalidArgumentError.at(name, text) from error


def find_file(body: RequestBody, name: str) -> str | None:
    """How `body` spells file `name`; None where it has none."""
    return next((spelling for spelling in spellings(name) if spelling in body.files), None)
