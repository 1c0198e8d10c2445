"""The page as an ASGI application, with the audio that it plays."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from acestage import __version__
from services.gateway.gateway import Gateway
from services.gateway.page.document_language import DocumentLanguage
from services.gateway.page.languages import TEXTS
from services.gateway.page.machine import Machine
from services.gateway.page.song_page import MACHINE_TICK_S, SongPage
from services.gateway.rest import catalog_api, jobs_api
from services.gateway.rest.bodies.body_limit import BodyLimit
from services.gateway.rest.error_answers import add_error_answers
from services.runtime.rpc.api_key import ApiKey

MAX_UPLOAD = "512mb"
_FONTS = ("system-ui", "sans-serif")
_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'"
)
"""What the page may load: nothing from other machines. Gradio has scripts and styles within the page."""


def create_page_app(gateway: Gateway, key: ApiKey, language: str) -> ASGIApp:
    """The application.

    Args:
        gateway: the parts behind it.
        key: the password of the page, which any user may give.
        language: "en" or "pt", in which it begins.
    """
    app = FastAPI(title="Acestage", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway = gateway
    app.state.key = ApiKey()  # who came as far has given the password
    app.add_middleware(BodyLimit)
    app.add_middleware(DocumentLanguage, locales={f"/{name}/": texts.locale for name, texts in TEXTS.items()})
    add_error_answers(app)
    app.include_router(catalog_api.health_router)
    app.include_router(jobs_api.router)

    @app.get("/")
    async def begin() -> RedirectResponse:
        return RedirectResponse(f"/{language}/")

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)  # browsers ask for it by themselves

    # A little less than the pages' pause, so that each of them gets a new answer every time.
    machine = Machine(gateway.client, 0.8 * MACHINE_TICK_S)
    script = (_HERE / "page.js").read_text()
    for name, texts in TEXTS.items():
        other = "/pt/" if name == "en" else "/en/"
        blocks = SongPage(gateway, machine, texts, other).blocks
        # As Gradio's own server has them. Of what is not launched it takes whatever path of this machine
        # somebody says for an upload, and hands the file out.
        blocks.has_launched = blocks.is_running = True
        gr.mount_gradio_app(
            app,
            blocks,
            f"/{name}",
            max_file_size=MAX_UPLOAD,
            ssr_mode=False,
            footer_links=[],
            theme=_theme(),
            css_paths=_HERE / "page.css",
            head=f"<script>{script}</script>",
        )
    return Guarded(app, key)


def _theme() -> gr.themes.Base:
    """Hints and what stands in empty fields are as dark as reading needs."""
    theme = gr.themes.Soft(font=_FONTS, font_mono=("ui-monospace", "monospace"))
    return theme.set(
        background_fill_primary="*neutral_50",  # else it would be white, though it is Soft's
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
        block_label_text_color="*primary_600",
        button_primary_background_fill="*primary_600",
        checkbox_label_background_fill_selected="*primary_600",
        link_text_color_dark="*primary_400",
    )


class Guarded:
    """Asks for the password, and tells browsers to load nothing from elsewhere."""

    def __init__(self, app: ASGIApp, key: ApiKey) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing of the page needs one
            await WebSocketClose(1008)(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != "/health" and not self._is_known(Headers(scope=scope).get("authorization", "")):
            challenge = {"www-authenticate": 'Basic realm="Acestage", charset="UTF-8"'}
            await Response(status_code=401, headers=challenge)(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_with_policy)

    def _is_known(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        try:
            given = base64.b64decode(value, validate=True) if kind.lower() == "basic" else b""
        except ValueError:  # no base64, or not even ASCII
            given = b""
        return self._key.is_in(given.partition(b":")[2].decode(errors="replace"))
