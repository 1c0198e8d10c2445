"""The REST interface as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from acestage import __version__
from services.gateway.gateway import Gateway
from services.gateway.rest import server_api, tasks_api
from services.gateway.rest.auth import Key
from services.gateway.rest.body_limit import BodyLimit
from services.gateway.rest.error_answers import add_error_answers

_OWN_PAGES = r"http://(localhost|127\.0\.0\.1)(:\d+)?"
"""Pages of this machine; no other page in a user's browser may use the services."""


def create_rest_app(gateway: Gateway, key: Key) -> FastAPI:
    """The application; routes find `gateway` and `key` in its state."""
    app = FastAPI(title="Acestage", version=__version__)
    app.state.gateway = gateway
    app.state.key = key
    add_error_answers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=_OWN_PAGES,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Content-Range", "Accept-Ranges", "Content-Length", "Retry-After"],
    )
    # What clients of ACE-Step know.
    app.include_router(server_api.open_router)
    app.include_router(server_api.router)
    app.include_router(server_api.body_router)
    app.include_router(tasks_api.router)
    # What is beyond it: `/v1/jobs` and the like.
    return app
