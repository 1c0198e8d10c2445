"""Audio that a request works on: files that it brings, or audio that was uploaded before."""

from __future__ import annotations

from acestage.async_client import AsyncClient
from acestage.audio import AUDIO_ID
from acestage.errors import InvalidArgumentError
from services.gateway.gateway import UPLOAD_TIMEOUT_S
from services.gateway.rest.field_names import spellings
from services.gateway.rest.field_values import FieldValues
from services.gateway.rest.request_body import RequestBody
from services.gateway.rest.song_fields import read

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


async def upload(client: AsyncClient, body: RequestBody, name: str) -> str | None:
    """Sends file `name` of `body` to the orchestrator, and returns its id; None where there is none.

    Raises:
        InvalidArgumentError: it is no audio, or too much of it.
        AcestageError: the orchestrator cannot take it.
    """
    spelling = find_file(body, name)
    if spelling is None:
        return None
    try:
        audio = await client.upload(body.files[spelling].file, timeout_s=UPLOAD_TIMEOUT_S)
    except InvalidArgumentError as error:
        text = "; ".join(violation.description for violation in error.violations) or error.message
        raise InvalidArgumentError.at(spelling, text) from error
    return audio.audio_id


def find_file(body: RequestBody, name: str) -> str | None:
    """How `body` spells file `name`; None where it has none."""
    return next((spelling for spelling in spellings(name) if spelling in body.files), None)
