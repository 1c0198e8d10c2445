"""How long it takes until answers begin."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The template of a path, not the path itself: there are as many of those as jobs.
                route = getattr(scope.get("route"), "path", "none")
                labels = (scope["method"], route, str(message["status"]))
                self._times.labels(*labels).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, watched_send)
