"""`/metrics` over HTTP, in threads of its own so that a scrape never holds up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from socketserver import BaseRequestHandler
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from acestage.errors import FailedPreconditionError
from services.runtime.processes.finishing import finish

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0
"""Each connection has a thread, until it has said nothing for so long."""


@contextlib.asynccontextmanager
async def metrics_server(registry: CollectorRegistry, host: str, port: int) -> AsyncIterator[None]:
    """Serves `registry` on `host`:`port` for the body.

    Raises:
        FailedPreconditionError: the address cannot be bound.
    """
    try:
        # In a thread: it looks up the host's name.
        server, thread = await asyncio.to_thread(start_http_server, port, host.strip("[]"), registry)
    except OSError as error:
        raise FailedPreconditionError(
            f"metrics_port: cannot bind {host}:{port}; is it in use? ({error})"
        ) from error
    server.RequestHandlerClass = _in_time(server.RequestHandlerClass)
    log.info("metrics", extra={"address": f"http://{host}:{port}/metrics"})
    try:
        yield
    finally:
        await finish(asyncio.to_thread(_stop, server, thread))


def _in_time(handler: Any) -> type[BaseRequestHandler]:
    """`handler` for connections that are given up once they are silent."""

    class InTime(handler):  # type: ignore[misc]
        timeout = REQUEST_TIMEOUT_S

        def handle(self) -> None:
            with contextlib.suppress(TimeoutError):
                super().handle()

    return InTime


def _stop(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
