"""The body of a request, whichever of the three content types it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from email.message import Message as HeaderMessage
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from acestage.errors import InvalidArgumentError
from services.gateway.gateway import Gateway
from services.gateway.rest.auth import check_key
from services.gateway.rest.bodies import body_limit
from services.gateway.rest.bodies.form_body import multipart_form, urlencoded_form
from services.gateway.strict_json import check_text, parsed_json
from services.runtime.rpc.api_key import ApiKey

MAX_FILE_COUNT = 4

_MULTIPART = "multipart/form-data"
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
async def checked_body(request: Request, max_file_count: int = 0) -> AsyncIterator[RequestBody]:
    """The body of `request`, once its key has been checked; its files end with the block.

    The key may be in the body, as `ai_token`, so that it is read before anybody knows whose it is: no more
    than a text's length where it can hold no files. A form that can takes a place, one of a few where the
    header has no key: strangers cannot take those of others.

    Args:
        request: whose body it is.
        max_file_count: files that the route takes.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
        InvalidArgumentError: it is no JSON object, or no form.
        ResourceExhaustedError: all places of uploads are taken.
        HTTPException: 415 where it is of another content type, 400 where a form is damaged or has more files.
    """
    key: ApiKey = request.app.state.key
    gateway: Gateway = request.app.state.gateway
    authorization = request.headers.get("authorization")
    kind = _content_type(request)
    has_key = key.is_in(authorization or "")
    may_have_files = kind == _MULTIPART and max_file_count > 0
    places = gateway.uploads if has_key else gateway.keyless_forms
    if not has_key and (authorization is not None or not may_have_files):
        request = _short(request, lambda: check_key(key, authorization))
    with places.take() if may_have_files else nullcontext():
        async with AsyncExitStack() as files:
            try:
                body = await _read(request, kind, max_file_count, files)
            except (InvalidArgumentError, HTTPException):
                check_key(key, authorization)  # who has none hears of no other fault
                raise
            check_key(key, authorization, body.values.get("ai_token"))
            yield body


async def _read(request: Request, kind: str, max_file_count: int, files: AsyncExitStack) -> RequestBody:
    """The body; its files end with the stack `files`."""
    if kind == "application/json" or kind.endswith("+json"):
        return RequestBody(await _json_object(request))
    if kind == "application/x-www-form-urlencoded":
        texts = await urlencoded_form(request)
        await asyncio.to_thread(check_text, texts)
        return RequestBody(texts)
    if kind == _MULTIPART:
        form = await files.enter_async_context(multipart_form(request, max_file_count=max_file_count))
        return await asyncio.to_thread(_of_parts, form)
    raise HTTPException(415, f"Content-Type: is {kind[:80]!r}; accepted: {_ACCEPTED}")


def _short(request: Request, refuse: Callable[[], None]) -> Request:
    """`request`, whose body may be as long as a text: `refuse`, which raises, is called for a longer one.

    That is at once where its header says so, else while it is read.
    """
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > body_limit.MAX_TEXT_BYTES:
        refuse()
    received_bytes = 0

    async def receive() -> Message:
        nonlocal received_bytes
        message = await request.receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > body_limit.MAX_TEXT_BYTES:
            refuse()
        return message

    return Request(request.scope, receive)


def parse_json(data: str | bytes, name: str) -> Any:
    """What `data` says as JSON; `name` is for the error.

    Raises:
        InvalidArgumentError: it is no JSON, or a text in it is none; of an object this names the field.
    """
    try:
        parsed = parsed_json(data)
        check_text(parsed if isinstance(parsed, dict) else {name: parsed})
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError.at(name, "is no JSON; accepted: a JSON object") from error
    return parsed


def _content_type(request: Request) -> str:
    message = HeaderMessage()
    message["content-type"] = request.headers.get("content-type", "")
    return message.get_content_type() if request.headers.get("content-type") else ""


async def _json_object(request: Request) -> dict[str, Any]:
    values = await asyncio.to_thread(parse_json, await request.body(), "body")
    if not isinstance(values, dict):
        raise InvalidArgumentError.at("body", f"is a JSON {_kind(values)}; accepted: a JSON object")
    return values


def _of_parts(form: FormData) -> RequestBody:
    """The first part of each name; a file field that was left empty in a browser is no file."""
    values: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for name, part in form.multi_items():
        if isinstance(part, str):
            values.setdefault(name, part)
        elif part.filename or part.size:
            files.setdefault(name, part)
    check_text(values)
    return RequestBody(values, files)


def _kind(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
