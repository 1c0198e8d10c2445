"""The REST interface as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI

from acestage import __version__
from services.gateway.gateway import Gateway
from services.gateway.rest.auth import Key
from services.gateway.rest.error_answers import add_error_answers


def create_rest_app(gateway: Gateway, key: Key) -> FastAPI:
    """The application; routes find `gateway` and `key` in its state."""
    app = FastAPI(title="Acestage", version=__version__)
    app.state.gateway = gateway
    app.state.key = key
    add_error_answers(app)
    return app
