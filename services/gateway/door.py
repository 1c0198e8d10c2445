"""The server of a front door: uvicorn's, which bears clients that say nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from acestage.errors import FailedPreconditionError
from acestage.settings import Settings

STOP_GRACE_S = 3
"""Requests in progress may finish for this long after SIGTERM."""
SILENCE_TIMEOUT_S = 30.0
"""A connection on which the head of no request comes for so long is closed."""
BACKLOG = 128
"""Connections that wait to be accepted. Out of files, asyncio logs so many errors every second."""
_BROKEN_OFF = "ASGI callable returned without completing response."
"""What uvicorn logs where an answer is broken off, which `LiveResponse` does on purpose and tells."""


class Door(uvicorn.Server):
    """A server that leaves signals to us.

    Args:
        app: what it serves.
        settings: with the certificate, if there is one.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            http=_PromptProtocol,
            backlog=BACKLOG,
            log_config=None,
            access_log=False,  # query strings may hold paths and keys
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=STOP_GRACE_S,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_no_break)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_no_break(record: logging.LogRecord) -> bool:
    return record.msg != _BROKEN_OFF


class _PromptProtocol(H11Protocol):
    """Closes connections whose request does not come; uvicorn itself knows only those that rest after one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # the head is not whole
            self._expect_request()

    def _expect_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            SILENCE_TIMEOUT_S, self.timeout_keep_alive_handler
        )


@contextmanager
def bound_socket(name: str, host: str, port: int) -> Iterator[socket.socket]:
    """A socket for the door `name`, which is closed after the block.

    Raises:
        FailedPreconditionError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else answers take 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise FailedPreconditionError(
                f"{name}_port: cannot bind {host}:{port}: {error.strerror}; is it in use?"
            ) from error
        yield listener
