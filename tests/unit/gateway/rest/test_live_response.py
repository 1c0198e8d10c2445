"""Answers that come in parts end with their listener, and hold a place no longer than that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message

from acestage.errors import AbortedError
from services.gateway.places import Places
from services.gateway.rest.live_response import LiveResponse

SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "headers": []}


async def parts_of(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


class Listener:
    """Takes messages, and waits for ever at those that it `is_stuck` at; stays until it `leaves`."""

    def __init__(self, is_stuck: Callable[[Message], bool] = lambda message: False) -> None:
        self.heard: list[Message] = []
        self.leaves = asyncio.Event()
        self._is_stuck = is_stuck

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._is_stuck(message):
            await asyncio.Event().wait()
        self.heard.append(message)


def listen(listener: Listener, response: LiveResponse) -> Any:
    return asyncio.wait_for(response(SCOPE, listener.receive, listener.send), 5)


@pytest.mark.parametrize(
    "is_stuck",
    [
        lambda message: message["type"] == "http.response.start",
        lambda message: message.get("body") == b"part",
        lambda message: message.get("more_body") is False,
    ],
    ids=["head", "part", "end"],
)
def test_who_reads_nothing_is_given_up_at_whichever_message(is_stuck: Callable[[Message], bool]) -> None:
    places = Places("streams", 1)

    async def body() -> None:
        response = LiveResponse(parts_of(b"part"), "audio/aac", places, send_timeout_s=0.01)
        await listen(Listener(is_stuck), response)
        assert places.taken_count == 0

    asyncio.run(body())


def test_what_has_no_parts_is_answered_otherwise_without_a_place() -> None:
    places = Places("streams", 1)

    async def otherwise() -> Response:
        assert places.taken_count == 0
        return Response(b"file", media_type="audio/mp4")

    async def body() -> None:
        listener = Listener()
        await listen(listener, LiveResponse(parts_of(), "audio/aac", places, otherwise=otherwise))
        head, file = listener.heard
        assert (b"content-type", b"audio/mp4") in head["headers"]
        assert file["body"] == b"file"

    asyncio.run(body())


@pytest.mark.parametrize("failure", [None, AbortedError("it was stopped")])
def test_what_has_begun_without_its_first_part_is_broken_off_where_none_comes(
    failure: Exception | None,
) -> None:
    places = Places("streams", 1)
    listener = Listener()

    async def nothing() -> AsyncGenerator[bytes, None]:
        assert [message["type"] for message in listener.heard] == ["http.response.start"]
        if failure is not None:
            raise failure
        return
        yield b""

    async def otherwise() -> Response:
        raise AssertionError("the answer has begun")

    async def body() -> None:
        response = LiveResponse(nothing(), "audio/aac", places, otherwise=otherwise, begins_at_once=True)
        await listen(listener, response)
        assert [message["type"] for message in listener.heard] == ["http.response.start"]
        assert places.taken_count == 0

    asyncio.run(body())


def test_what_has_begun_without_its_first_part_goes_on_with_it() -> None:
    async def body() -> None:
        listener = Listener()
        response = LiveResponse(parts_of(b"a", b"b"), "audio/aac", Places("streams", 1), begins_at_once=True)
        await listen(listener, response)
        assert [message.get("body") for message in listener.heard] == [None, b"a", b"b", b""]

    asyncio.run(body())


def test_who_leaves_while_nothing_is_there_is_not_waited_for() -> None:
    places = Places("streams", 1)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def nothing() -> AsyncGenerator[bytes, None]:
        begun.set()
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            ended.set()

    async def body() -> None:
        listener = Listener()
        listening = asyncio.ensure_future(listen(listener, LiveResponse(nothing(), "audio/aac", places)))
        await begun.wait()
        assert places.taken_count == 1
        listener.leaves.set()
        await listening
        assert (listener.heard, places.taken_count, ended.is_set()) == ([], 0, True)

    asyncio.run(body())
