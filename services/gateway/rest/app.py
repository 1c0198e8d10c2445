"""The REST interface as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CollectorRegistry

from acestage import __version__
from services.gateway.gateway import Gateway
from services.gateway.rest import catalog_api, jobs_api, server_api, tasks_api, uploads_api
from services.gateway.rest.answer_times import AnswerTimes
from services.gateway.rest.bodies.body_limit import BodyLimit
from services.gateway.rest.error_answers import add_error_answers
from services.gateway.rest.metrics import GatewayCollector
from services.runtime.rpc.api_key import ApiKey

LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""Pages of this machine, such as a DAW's, may read answers."""


def create_rest_app(gateway: Gateway, key: ApiKey) -> FastAPI:
    """The application; routes find `gateway` and `key` in its state."""
    # The usual viewers of the documentation load their scripts from other machines.
    app = FastAPI(title="Acestage", version=__version__, docs_url=None, redoc_url=None)
    app.state.gateway = gateway
    app.state.key = key
    app.state.metrics = CollectorRegistry()
    app.state.metrics.register(GatewayCollector(gateway))
    app.add_middleware(BodyLimit)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=LOCAL_ORIGINS,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Content-Range", "Content-Disposition", "Location", "Retry-After"],
    )
    app.add_middleware(AnswerTimes, registry=app.state.metrics)
    add_error_answers(app)
    app.include_router(catalog_api.health_router)
    for api in (catalog_api, tasks_api, jobs_api, uploads_api, server_api):
        app.include_router(api.router)
    return app
