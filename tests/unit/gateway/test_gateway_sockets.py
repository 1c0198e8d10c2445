"""The sockets of the front doors."""

from __future__ import annotations

import asyncio
import socket

import pytest

from acestage.errors import FailedPreconditionError
from services.gateway.__main__ import bound_socket


def test_small_answers_are_sent_at_once() -> None:
    async def scenario() -> int:
        with bound_socket("rest", "127.0.0.1", 0) as listener:
            option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                accepted_socket = writer.get_extra_info("socket")
                option.set_result(accepted_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                writer.close()

            async with await asyncio.start_server(accepted, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                async with asyncio.timeout(10):
                    found = await option
                writer.close()
            return found

    assert asyncio.run(scenario()) != 0


def test_an_address_in_use_is_named() -> None:
    with bound_socket("rest", "127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(FailedPreconditionError, match=f"page_port: cannot bind 127.0.0.1:{port}"),
            bound_socket("page", "127.0.0.1", port),
        ):
            pass
