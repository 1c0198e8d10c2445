"""How long it takes until answers begin."""

from __future__ import annotations

import time
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class AnswerTimes:
    """Measures each request of `app` until its answer begins; streams go on after that."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._times = Histogram(
            "acestage_gateway_answer_seconds",
            "From a request to the beginning of its answer.",
            labelnames=("method", "route", "status"),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        has_begun = False

        def observe(status: int) -> None:
            # Templates and known methods alone: clients could make up as many paths and methods as they like.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "none")
            self._times.labels(method, route, str(status)).observe(time.perf_counter() - started)

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                observe(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:  # the server answers it, outside of this
            if not has_begun:
                observe(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
