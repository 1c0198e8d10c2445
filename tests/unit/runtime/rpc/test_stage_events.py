"""Events of a job on their way to who asked for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from acestage.errors import DeadlineExceededError
from acestage.protos.vae.v1 import vae_pb2 as pb
from services.runtime.jobs.stage_event import Queued
from services.runtime.jobs.stage_runner import StageRunner
from services.runtime.rpc import stage_events
from services.runtime.rpc.interceptors import ErrorInterceptor
from services.runtime.rpc.stage_events import relay
from services.runtime.workers.messages import Message
from tests.unit.job_events import run
from tests.unit.waiting import until

JOB = Message("decode", {"model": "m"})


class FakeRunner:
    """Says where the job is in line, and then nothing any more."""

    def __init__(self) -> None:
        self.is_free = False

    async def run(self, job: Message, feed: object) -> AsyncIterator[Queued]:
        try:
            yield Queued(1)
            await asyncio.Event().wait()
        finally:
            self.is_free = True


class SlowCall:
    """A call whose reader takes nothing until it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.reads = asyncio.Event()
        self.written: list[Any] = []
        self.error = error

    async def write(self, response: Any) -> None:
        self.written.append(response)
        await self.reads.wait()
        if self.error is not None:
            raise self.error


def relayed(runner: FakeRunner, call: SlowCall) -> asyncio.Task[None]:
    context: Any = SimpleNamespace(write=call.write)
    return asyncio.ensure_future(
        relay(cast(StageRunner, runner), JOB, context, pb.DecodeResponse, lambda message: [])
    )


def test_a_job_that_ends_early_frees_the_device_at_once_and_ends_its_call_after_the_last_message() -> None:
    async def scenario() -> None:
        runner, call = FakeRunner(), SlowCall()
        working = relayed(runner, call)
        await until(lambda: bool(call.written))
        working.cancel()
        await until(lambda: runner.is_free)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not working.done()  # a status would be refused now
        call.reads.set()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert [response.queued.position for response in call.written] == [1]

    run(scenario())


def test_a_caller_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_events, "READER_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        runner, call = FakeRunner(), SlowCall()
        with pytest.raises(DeadlineExceededError, match=r"read nothing for 0\.05 s"):
            await relayed(runner, call)
        assert runner.is_free

    run(scenario())


class PouringRunner(FakeRunner):
    """Makes more than gRPC takes of a client that does not read."""

    async def run(self, job: Message, feed: object) -> AsyncIterator[Any]:
        try:
            while True:
                yield Message("audio")
        finally:
            self.is_free = True


def test_over_a_real_call_the_device_is_freed_and_a_caller_that_reads_on_hears_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_events, "READER_TIMEOUT_S", 0.2)
    audio = pb.DecodeResponse(audio=pb.AudioChunk(samples=bytes(1 << 20)))

    async def scenario() -> None:
        runner = PouringRunner()

        async def decode(request: bytes, context: Any) -> None:
            await relay(cast(StageRunner, runner), JOB, context, pb.DecodeResponse, lambda message: [audio])

        handler = grpc.unary_stream_rpc_method_handler(
            decode, response_serializer=pb.DecodeResponse.SerializeToString
        )
        server = grpc.aio.server(interceptors=[ErrorInterceptor("vae")])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s.S", {"decode": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call: Any = channel.unary_stream("/s.S/decode")(b"")
                assert await call.read()
                await until(lambda: runner.is_free)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    while await call.read():
                        pass
                assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert await call.details() == "the client read nothing for 0.2 s"
        finally:
            await server.stop(None)

    run(scenario())


def test_a_job_that_ends_early_does_not_wait_for_ever_for_a_caller_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        runner, call = FakeRunner(), SlowCall()
        working = relayed(runner, call)
        await until(lambda: bool(call.written))
        monkeypatch.setattr(stage_events, "READER_TIMEOUT_S", 0.05)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    run(scenario())


def test_a_message_that_cannot_be_written_is_an_error_though_the_job_ends_early() -> None:
    async def scenario() -> None:
        runner, call = FakeRunner(), SlowCall(TypeError("a defect"))
        working = relayed(runner, call)
        await until(lambda: bool(call.written))
        working.cancel()
        await until(lambda: runner.is_free)
        call.reads.set()
        with pytest.raises(TypeError, match="a defect"):
            await working

    run(scenario())


def test_a_caller_who_is_gone_is_no_other_error() -> None:
    async def scenario() -> None:
        runner, call = FakeRunner(), SlowCall(asyncio.CancelledError())
        working = relayed(runner, call)
        await until(lambda: bool(call.written))
        working.cancel()
        await until(lambda: runner.is_free)
        call.reads.set()
        with pytest.raises(asyncio.CancelledError):
            await working

    run(scenario())
