"""The interceptor: request ids in, errors of our tree out, defects logged and not told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from acestage.access import Access, open_aio_channel, open_channel
from acestage.errors import VramBudgetExceededError
from acestage.settings import Settings
from services.runtime.processes.request_context import REQUEST_ID_KEY, request_id
from services.runtime.rpc.api_key import ApiKey
from services.runtime.rpc.interceptors import ErrorInterceptor
from services.runtime.rpc.server import Server
from tests.integration.running_ledger import failure_of, reason_of, run, running_ledger

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def echo_server(
    serve: Callable[[], bytes],
    unary_unary: Any = None,
    unary_stream: Any = None,
    key: ApiKey | None = None,
) -> grpc.aio.Server:
    """A server with a method of each kind that answers what `serve` returns or raises.

    `unary_unary` and `unary_stream` take the place of those methods.
    """

    async def answer_once(request: object, context: object) -> bytes:
        return serve()

    async def answer_twice(request: object, context: object) -> AsyncIterator[bytes]:
        yield b"first"
        yield serve()

    handlers: dict[str, Any] = {
        "unary_unary": grpc.unary_unary_rpc_method_handler(unary_unary or answer_once),
        "unary_stream": grpc.unary_stream_rpc_method_handler(unary_stream or answer_twice),
        "stream_unary": grpc.stream_unary_rpc_method_handler(answer_once),
        "stream_stream": grpc.stream_stream_rpc_method_handler(answer_twice),
    }
    server = grpc.aio.server(interceptors=[ErrorInterceptor("echo", key)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    return server


async def call_echo(serve: Callable[[], bytes], kind: str, *, unary_unary: Any = None) -> list[bytes]:
    server = echo_server(serve, unary_unary)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = getattr(channel, kind)(f"/echo.Echo/{kind}")
            request = iter([b"x"]) if kind.startswith("stream") else b"x"
            call = method(request, metadata=((REQUEST_ID_KEY, "abc-123"),))
            return [x async for x in call] if kind.endswith("stream") else [await call]
    finally:
        await server.stop(None)


def errors_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """But for those of gRPC's poller: it is one for the loops of all tests, closed ones too."""
    errors = (record for record in caplog.records if record.levelno >= logging.ERROR)
    return [record for record in errors if "PollerCompletionQueue" not in record.getMessage()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_request_id_of_the_caller_reaches_the_handler(kind: str) -> None:
    assert run(call_echo(lambda: (request_id() or "none").encode(), kind))[-1] == b"abc-123"


@pytest.mark.parametrize("kind", KINDS)
def test_our_errors_cross_the_wire_with_their_details(kind: str) -> None:
    def serve() -> bytes:
        raise VramBudgetExceededError("8 GB asked, 4 GB there")

    error = run(failure_of(call_echo(serve, kind)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "8 GB asked, 4 GB there"
    assert reason_of(error) == "VRAM_BUDGET_EXCEEDED"


@pytest.mark.parametrize("defect", [LookupError, NotImplementedError])
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_logged_once_and_not_told(
    kind: str, defect: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def serve() -> bytes:
        raise defect("a secret path")

    error = run(failure_of(call_echo(serve, kind)))

    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert error.details() == "internal error, see the log of echo; request_id=abc-123"
    logged = errors_logged(caplog)
    assert len(logged) == 1
    assert logged[0].exc_info is not None
    assert getattr(logged[0], "request_id") == "abc-123"  # noqa: B009
    assert "a secret path" in caplog.text


def test_a_caller_that_leaves_messages_unread_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        written_count = 0
        is_writing = False
        cancelled_while_writing: list[bool] = []

        async def pour(request: object, context: Any) -> None:
            nonlocal written_count, is_writing
            while True:
                is_writing = True
                await context.write(bytes(1 << 20))
                is_writing = False
                written_count += 1

        server = echo_server(lambda: b"", unary_stream=pour)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                for _ in range(20):
                    call: Any = channel.unary_stream("/echo.Echo/unary_stream")(b"x")
                    await call.read()
                    seen = -1
                    while written_count > seen:  # until a message waits for the caller to read
                        seen = written_count
                        for _ in range(100):
                            await asyncio.sleep(0)
                    cancelled_while_writing.append(is_writing)
                    call.cancel()
        finally:
            await server.stop(1.0)
        assert any(cancelled_while_writing)

    run(test())

    assert errors_logged(caplog) == []


def test_a_handler_may_abort_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def abort(request: object, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "as the handler says")
        return b""

    error = run(failure_of(call_echo(lambda: b"", "unary_unary", unary_unary=abort)))

    assert (error.code(), error.details()) == (grpc.StatusCode.ALREADY_EXISTS, "as the handler says")
    assert errors_logged(caplog) == []


def test_a_method_that_a_servicer_lacks_is_unimplemented(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        server = Server("echo", (), Settings(host="127.0.0.1"), port=0)
        port = await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
                assert (await failure_of(call)).code() is grpc.StatusCode.UNIMPLEMENTED
        finally:
            await server.stop()

    run(test())

    assert errors_logged(caplog) == []


@pytest.mark.parametrize(
    ("kind", "method"), [("unary_stream", "AcquireLease"), ("stream_stream", "KeepLeaseAlive")]
)
@pytest.mark.parametrize("message", [b"\x0a\x01\xff", b"\x0a\xff"], ids=["not UTF-8", "cut short"])
def test_a_request_that_cannot_be_parsed_is_an_invalid_argument(
    kind: str, method: str, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            path = f"/acestage.lease.v1.LeaseService/{method}"
            call: Any = getattr(await ledger.channel(), kind)(path)
            error = await failure_of(call(iter([message]) if kind == "stream_stream" else message).read())
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")

    run(test())

    assert errors_logged(caplog) == []


def test_errors_of_grpc_itself_are_unchanged() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            missing: Any = (await ledger.channel()).unary_unary("/acestage.lease.v1.LeaseService/Missing")
            assert (await failure_of(missing(b""))).code() is grpc.StatusCode.UNIMPLEMENTED

    run(test())


async def call_with_key(kind: str, key: str | None, *, is_blocking: bool, served: Callable[[], bytes]) -> Any:
    """What a server with the key "s3cret" answers to a client of either sort that brings `key`."""
    server = echo_server(served, key=ApiKey("s3cret"))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target, access = f"127.0.0.1:{port}", Access(key)
    metadata = ((REQUEST_ID_KEY, "abc-123"),)
    request = iter([b"x"]) if kind.startswith("stream") else b"x"

    def call_blocking() -> list[bytes]:
        with open_channel(target, access) as channel:
            answer = getattr(channel, kind)(f"/echo.Echo/{kind}")(request, metadata=metadata)
            return list(answer) if kind.endswith("stream") else [answer]

    try:
        if is_blocking:
            return await asyncio.to_thread(call_blocking)
        async with open_aio_channel(target, access) as channel:
            call = getattr(channel, kind)(f"/echo.Echo/{kind}")(request, metadata=metadata)
            return [x async for x in call] if kind.endswith("stream") else [await call]
    finally:
        await server.stop(None)


@pytest.mark.parametrize("key", ["s3cret", "s3cret\n"])
@pytest.mark.parametrize("is_blocking", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_each_kind_bring_the_key_beside_their_own_metadata(
    kind: str, is_blocking: bool, key: str
) -> None:
    def serve() -> bytes:
        return (request_id() or "").encode()

    assert run(call_with_key(kind, key, is_blocking=is_blocking, served=serve))[-1] == b"abc-123"


@pytest.mark.parametrize("key", [None, "s3cre", "s3cret2"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_key_nothing_runs(kind: str, key: str | None) -> None:
    served = Mock(return_value=b"")
    error = run(failure_of(call_with_key(kind, key, is_blocking=False, served=served)))
    served.assert_not_called()
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(error) == "UNAUTHENTICATED"
    assert "s3cre" not in error.details()
