"""The sockets and servers of the front doors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from acestage.errors import AbortedError, FailedPreconditionError
from acestage.settings import Settings
from services.gateway import door
from services.gateway.door import Door, bound_socket
from services.gateway.places import Places
from services.gateway.rest.live_response import LiveResponse
from tests.unit.waiting import HANG_S


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
                async with asyncio.timeout(HANG_S):
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


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\n"])
def test_a_connection_without_a_request_is_closed_and_one_that_waits_for_its_answer_is_not(
    monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(door, "SILENCE_TIMEOUT_S", 0.2)

    async def scenario() -> tuple[bytes, bytes]:
        silent_is_closed = asyncio.Event()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            await silent_is_closed.wait()
            await Response("done")(scope, receive, send)

        with bound_socket("rest", "127.0.0.1", 0) as listener:
            listener.listen()
            server = Door(answer, Settings(_env_file=None))
            server.config.lifespan = "off"
            serving = asyncio.create_task(server.serve([listener]))
            async with asyncio.timeout(HANG_S):
                patient, patient_writer = await asyncio.open_connection(*listener.getsockname())
                patient_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                silent, silent_writer = await asyncio.open_connection(*listener.getsockname())
                silent_writer.write(head)
                silence = await silent.read()
                silent_is_closed.set()
                answered = await patient.read()
            silent_writer.close()
            patient_writer.close()
            server.should_exit = True
            await serving
        return silence, answered

    silence, answer = asyncio.run(scenario())
    assert silence == b""
    assert answer.endswith(b"done")


def test_an_answer_that_is_broken_off_breaks_the_connection_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"part"
        raise AbortedError("it was stopped")

    async def scenario() -> bytes:
        with bound_socket("rest", "127.0.0.1", 0) as listener:
            listener.listen()
            server = Door(LiveResponse(parts(), "audio/aac", Places("streams", 1)), Settings(_env_file=None))
            server.config.lifespan = "off"
            serving = asyncio.create_task(server.serve([listener]))
            async with asyncio.timeout(HANG_S):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await reader.read()
            writer.close()
            server.should_exit = True
            await serving
        return answer

    assert asyncio.run(scenario()).endswith(b"part\r\n")  # without the empty chunk of an end
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == []
    assert caplog.messages.count("a live answer is broken off: it was stopped") == 1
