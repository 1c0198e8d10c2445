"""A bound on the bytes of requests, whatever their heads say."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_TEXT_BYTES = 4 << 20
MAX_FORM_BYTES = 2 * (512 << 20) + (8 << 20)
"""Two files as large as the orchestrator takes, and the texts beside them."""


class BodyLimit:
    """ASGI middleware that answers 413 where a body is too large, as soon as that is known."""

    def __init__(
        self, app: ASGIApp, max_text_bytes: int = MAX_TEXT_BYTES, max_form_bytes: int = MAX_FORM_BYTES
    ) -> None:
        self._app = app
        self._max_text_bytes = max_text_bytes
        self._max_form_bytes = max_form_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data")
        most = self._max_form_bytes if is_form else self._max_text_bytes
        text = f"the body has more than {most} bytes; accepted: up to {most} for this content type"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            await JSONResponse({"detail": text}, 413, {"Connection": "close"})(scope, receive, send)
            return
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > most:
                raise HTTPException(413, text, {"Connection": "close"})
            return message

        await self._app(scope, counted, send)
