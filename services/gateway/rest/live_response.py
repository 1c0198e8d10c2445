"""An answer that comes in parts for as long as something goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from acestage.errors import AbortedError, AcestageError
from services.gateway.places import Places
from services.runtime.processes.finishing import end

log = logging.getLogger(__name__)

T = TypeVar("T")

SEND_TIMEOUT_S = 300.0
"""A client that reads nothing for so long is given up. A player that is paused reads nothing."""


class LiveResponse(Response):
    """Sends `parts` until they end, or the client goes; then they are closed at once.

    Where `parts` fail before the answer begins, it is the error's own. Later the connection is broken, so
    that nobody takes what came for the whole.

    Args:
        parts: bytes of the body; none of them empty.
        places: one of which it needs.
        send_timeout_s: for a client that does not read.
        otherwise: makes the answer where there are no parts at all; it needs no place.
        begins_at_once: the head is sent before the first part is there, which then has to come.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        places: Places,
        headers: Mapping[str, str] | None = None,
        send_timeout_s: float = SEND_TIMEOUT_S,
        otherwise: Callable[[], Awaitable[Response]] | None = None,
        begins_at_once: bool = False,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Cache-Control": "no-store", **(headers or {})})
        self._parts = parts
        self._places = places
        self._send_timeout_s = send_timeout_s
        self._otherwise = otherwise
        self._begins_at_once = begins_at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts):
            with self._places.take():
                try:
                    is_answered = await while_connected(receive, self._send_all(send))
                except ClientDisconnect:
                    log.info("a listener left")
                    return
        if not is_answered and self._otherwise is not None:
            await (await self._otherwise())(scope, receive, send)

    async def _send_all(self, send: Send) -> bool:
        """Whether this was the answer."""
        async with aclosing(self._parts):
            part = b"" if self._begins_at_once else await anext(self._parts, b"")
            if not part and not self._begins_at_once and self._otherwise is not None:
                return False
            try:
                await self._send(
                    send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                if self._begins_at_once:
                    part = await self._first_part()
                while part:
                    await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
                    part = await anext(self._parts, b"")
                await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                log.warning("a listener read nothing for %g s", self._send_timeout_s)
            except AcestageError as error:
                log.info("a live answer is broken off: %s", error.message)
        return True

    async def _first_part(self) -> bytes:
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            raise AbortedError("nothing came") from None

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._send_timeout_s):
            await send(message)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`; it is cancelled, and has ended, when the client goes.

    Raises:
        ClientDisconnect: it went.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await end(watching)
        await end(working)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
