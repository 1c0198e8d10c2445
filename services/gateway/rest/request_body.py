"""The body of a request, whichever of the three content types it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile

from acestage.errors import InvalidArgumentError
from services.gateway.rest.auth import check_key
from services.runtime.rpc.api_key import ApiKey

MAX_TEXT_BYTES = 1 << 20
"""Of one text part of a form; the longest that a request may hold, audio codes, have half of that."""
MAX_PART_COUNT = 200
MAX_FILE_COUNT = 4

_ACCEPTED = "application/json, multipart/form-data, application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What a client sent.

    Attributes:
        values: as JSON has them, or the texts of a form.
        files: those of a form, by the names of their parts.
    """

    values: Mapping[str, Any]
    files: Mapping[str, UploadFile] = field(default_factory=dict)


@asynccontextmanager
async def checked_body(request: Request) -> AsyncIterator[RequestBody]:
    """The body of `request`, once its key has been checked; its files end with the block.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
        InvalidArgumentError: it is no JSON object, or no form.
        HTTPException: 415 where it is of another content type, 400 where a form is damaged.
    """
    key: ApiKey = request.app.state.key
    authorization = request.headers.get("authorization")
    kind = _content_type(request)
    try:
        if kind == "application/json" or kind.endswith("+json"):
            body = RequestBody(await _json_object(request))
        elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            body = _of_form(
                await request.form(
                    max_files=MAX_FILE_COUNT, max_fields=MAX_PART_COUNT, max_part_size=MAX_TEXT_BYTES
                )
            )
        else:
            raise HTTPException(415, f"Content-Type: is {kind[:80]!r}; accepted: {_ACCEPTED}")
    except (InvalidArgumentError, HTTPException):
        check_key(key, authorization)  # who has none hears of no other fault
        raise
    try:
        check_key(key, authorization, body.values.get("ai_token"))
        yield body
    finally:
        await request.close()


def parse_json(data: str | bytes, name: str) -> Any:
    """What `data` says as JSON; `name` is for the error.

    Raises:
        InvalidArgumentError: it is no JSON.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError.at(name, "is no JSON; accepted: a JSON object") from error


def _content_type(request: Request) -> str:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "")
    return message.get_content_type() if request.headers.get("content-type") else ""


async def _json_object(request: Request) -> dict[str, Any]:
    values = await asyncio.to_thread(parse_json, await request.body(), "body")
    if not isinstance(values, dict):
        raise InvalidArgumentError.at("body", f"is a JSON {_kind(values)}; accepted: a JSON object")
    return values


def _of_form(form: FormData) -> RequestBody:
    """The first part of each name; a file field that was left empty in a browser is no file."""
    values: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for name, part in form.multi_items():
        if isinstance(part, str):
            values.setdefault(name, part)
        elif part.filename or part.size:
            files.setdefault(name, part)
    return RequestBody(values, files)


def _kind(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
