"""No request is larger, or longer on its way, than anybody needs."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_TEXT_BYTES = 4 << 20
"""The largest JSON or urlencoded body; the longest lyrics and codes take a fifth of that."""
MAX_FILES_BYTES = (2 * 512 + 8) << 20
"""The largest of any other body: a source and a reference as large as the orchestrator takes, and fields."""

SILENCE_TIMEOUT_S = 60.0
"""A client that sends nothing of its body for so long is given up."""


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """Answers 413 to a body that is too large: at once where its length says so, else when that much came.

    One of which nothing comes for `SILENCE_TIMEOUT_S` is answered with 408, by whoever reads it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most_bytes = _most_bytes(headers)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most_bytes:
            await _refusal(most_bytes)(scope, receive, send)
            return
        received_bytes = 0
        is_whole = has_started = False

        async def counted_receive() -> Message:
            nonlocal received_bytes, is_whole
            try:
                async with asyncio.timeout(None if is_whole else SILENCE_TIMEOUT_S):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the body: nothing came for {SILENCE_TIMEOUT_S:g} s") from error
            is_whole = not message.get("more_body", False)
            received_bytes += len(message.get("body", b""))
            if received_bytes > most_bytes:
                raise _TooLargeError
            return message

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, counted_receive, watched_send)
        except _TooLargeError:
            if has_started:
                raise
            await _refusal(most_bytes)(scope, receive, send)


def _most_bytes(headers: Headers) -> int:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_text = media_type.endswith("json") or media_type == "application/x-www-form-urlencoded"
    return MAX_TEXT_BYTES if is_text else MAX_FILES_BYTES


def _refusal(most_bytes: int) -> JSONResponse:
    problem = f"the body is too large; accepted: up to {most_bytes} bytes"
    return JSONResponse({"detail": problem}, 413, {"connection": "close"})
