"""Clients end the call that they began, however the generation ends."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from acestage import Access, AsyncClient, Client
from acestage.errors import CancelledError, FailedPreconditionError, InternalError, InvalidArgumentError
from acestage.generation import Generation, GenerationEvent, JobQueued
from acestage.generation_stream import GenerationStream
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc

TIMEOUT_S = 10.0


class EndlessGeneration(generation_pb2_grpc.GenerationServiceServicer):
    """Says that the job is queued, then nothing until the call ends, unless "a song" is asked for.

    Attributes:
        address: where it answers.
        call_ended: the client cancelled the call, or went away.
    """

    address = ""

    def __init__(self) -> None:
        self.call_ended = threading.Event()

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        context.add_callback(self.call_ended.set)
        yield pb.GenerateResponse(queued=pb.JobQueued(job_id="1", position=1))
        if request.caption == "a song":
            yield pb.GenerateResponse(completed=pb.JobCompleted(job_id="1"))
        if request.caption != "nothing more":
            self.call_ended.wait()


@pytest.fixture
def service() -> Iterator[EndlessGeneration]:
    servicer = EndlessGeneration()
    server = grpc.server(ThreadPoolExecutor(1))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(grace=None).wait()


class KeepingClient(Client):
    """Holds on to its streams, so that none is closed merely because nobody refers to it."""

    def stream(self, *arguments: Any, **options: Any) -> Generator[GenerationEvent, None, None]:
        self.events = super().stream(*arguments, **options)
        return self.events


class KeepingAsyncClient(AsyncClient):
    """As `KeepingClient`."""

    def stream(self, *arguments: Any, **options: Any) -> AsyncGenerator[GenerationEvent, None]:
        self.events = super().stream(*arguments, **options)
        return self.events


def refuse(event: GenerationEvent) -> None:
    assert event == JobQueued("1", 1)
    raise ZeroDivisionError


def test_an_error_of_on_event_ends_the_call(service: EndlessGeneration) -> None:
    with KeepingClient(service.address) as client:
        with pytest.raises(ZeroDivisionError):
            client.generate("piano", on_event=refuse, timeout_s=60)
        assert service.call_ended.wait(TIMEOUT_S)


def test_an_error_of_on_event_ends_the_call_of_the_asyncio_client(service: EndlessGeneration) -> None:
    async def scenario() -> bool:
        async with KeepingAsyncClient(service.address) as client:
            with pytest.raises(ZeroDivisionError):
                await client.generate("piano", on_event=refuse, timeout_s=60)
            return await asyncio.to_thread(service.call_ended.wait, TIMEOUT_S)

    assert asyncio.run(scenario())


def test_an_async_on_event_is_awaited_before_the_next_event(service: EndlessGeneration) -> None:
    heard: list[str] = []

    async def hear(event: GenerationEvent) -> None:
        heard.append(f"{type(event).__name__} begins")
        await asyncio.sleep(0)
        heard.append(f"{type(event).__name__} ends")

    async def scenario() -> None:
        async with AsyncClient(service.address) as client:
            await client.generate("a song", on_event=hear, timeout_s=TIMEOUT_S)

    asyncio.run(scenario())
    assert heard == ["JobQueued begins", "JobQueued ends", "Generation begins", "Generation ends"]


def test_cancelling_the_task_ends_the_call(service: EndlessGeneration) -> None:
    async def scenario() -> bool:
        begun = asyncio.Event()
        async with KeepingAsyncClient(service.address) as client:
            work = client.generate("piano", on_event=lambda event: begun.set(), timeout_s=60)
            task = asyncio.create_task(work)
            await asyncio.wait_for(begun.wait(), TIMEOUT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(service.call_ended.wait, TIMEOUT_S)

    assert asyncio.run(scenario())


def test_the_asyncio_client_may_be_made_before_the_event_loop_runs(service: EndlessGeneration) -> None:
    client = AsyncClient(service.address)

    async def scenario() -> Generation:
        async with client:
            return await client.generate("a song", timeout_s=TIMEOUT_S)

    assert asyncio.run(scenario()).job_id == "1"


def test_the_asyncio_client_takes_no_key_that_cannot_be_used() -> None:
    with pytest.raises(FailedPreconditionError, match="api_key"):
        AsyncClient(access=Access("schlüssel"))


def test_the_asyncio_client_puts_tracks_together_off_the_event_loop(
    service: EndlessGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: dict[str | None, int] = {}
    read = GenerationStream.read

    def record(stream: GenerationStream, response: pb.GenerateResponse) -> GenerationEvent:
        readers[response.WhichOneof("event")] = threading.get_ident()
        return read(stream, response)

    async def scenario() -> None:
        async with AsyncClient(service.address) as client:
            await client.generate("a song", timeout_s=60)

    monkeypatch.setattr(GenerationStream, "read", record)
    asyncio.run(scenario())
    assert readers["queued"] == threading.get_ident()
    assert readers["completed"] != threading.get_ident()


def test_a_stream_that_ends_early_is_an_error_that_names_the_orchestrator(service: EndlessGeneration) -> None:
    with Client(service.address) as client, pytest.raises(InternalError, match=service.address):
        client.generate("nothing more", timeout_s=60)


def test_a_server_of_another_kind_is_told_as_that(service: EndlessGeneration) -> None:
    expected = (
        f"{service.address} does not know this call: .*; is that the right address, and .* this version"
    )
    with Client(service.address) as client, pytest.raises(FailedPreconditionError, match=expected):
        client.audio("a")  # a service that this server does not have


@pytest.mark.parametrize("target", ["", " ", None, 50050])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_no_address_is_refused_at_once(kind: Any, target: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"^target: is {target!r}; accepted: .* host:port"):
        kind(target)


def test_closing_the_asyncio_client_ends_calls_and_cancels_no_task(service: EndlessGeneration) -> None:
    async def scenario() -> list[BaseException | str]:
        begun = asyncio.Event()
        client = AsyncClient(service.address)
        song = client.generate("piano", on_event=lambda event: begun.set(), timeout_s=60)
        tasks = [asyncio.create_task(song)]
        await asyncio.wait_for(begun.wait(), TIMEOUT_S)
        # The one thread of the service is busy: it answers none of these.
        tasks += [asyncio.create_task(client.cancel("1")) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        await client.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    song, answer, cancelled = asyncio.run(scenario())
    for error in (song, answer):
        assert isinstance(error, CancelledError)
        assert error.message == "the client was closed"
    assert isinstance(cancelled, asyncio.CancelledError)


def test_a_stream_ends_with_its_client(service: EndlessGeneration) -> None:
    with Client(service.address) as client:
        events = client.stream("piano", timeout_s=60)
        next(events)
    with pytest.raises(CancelledError, match="the client was closed"):
        next(events)


def test_a_stream_ends_with_its_asyncio_client(service: EndlessGeneration) -> None:
    async def scenario() -> None:
        async with AsyncClient(service.address) as client:
            events = client.stream("piano", timeout_s=60)
            await anext(events)
        with pytest.raises(CancelledError, match="the client was closed"):
            await anext(events)

    asyncio.run(scenario())


def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:1")
    client.close()
    for call in (client.status, lambda: client.generate("piano"), lambda: client.upload(io.BytesIO())):
        with pytest.raises(FailedPreconditionError, match="this client is closed"):
            call()


def test_a_closed_asyncio_client_says_so() -> None:
    async def scenario() -> None:
        client = AsyncClient("127.0.0.1:1")
        await client.close()
        for call in (client.status(), client.generate("piano"), client.upload(io.BytesIO())):
            with pytest.raises(FailedPreconditionError, match="this client is closed"):
                await call

    asyncio.run(scenario())
