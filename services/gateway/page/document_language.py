"""The language of the page, which Gradio takes from the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DocumentLanguage:
    """Tells each document its language before any script of Gradio's asks the browser for one.

    Args:
        app: whose documents they are.
        locales: the language of the document at each path, such as "pt-BR".
    """

    def __init__(self, app: ASGIApp, locales: Mapping[str, str]) -> None:
        self._app = app
        self._locales = locales

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        locale = self._locales.get(scope["path"]) if scope["type"] == "http" else None
        if locale is None:
            await self._app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def send_in_language(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            whole = _in_language(bytes(body), locale)
            if body:  # an answer to HEAD says how long it would be
                MutableHeaders(raw=start["headers"])["content-length"] = str(len(whole))
            await send(start)
            await send({"type": "http.response.body", "body": whole})

        # What is compressed could not be changed.
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self._app({**scope, "headers": headers}, receive, send_in_language)


def _in_language(document: bytes, locale: str) -> bytes:
    asked = json.dumps(locale)
    script = (
        f"document.documentElement.lang = {asked};"
        f'Object.defineProperty(navigator, "language", {{ get: () => {asked} }});'
        f'Object.defineProperty(navigator, "languages", {{ get: () => [{asked}] }});'
    )
    return document.replace(b"<head>", f"<head><script>{script}</script>".encode(), 1)
