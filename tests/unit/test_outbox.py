"""Events that wait for slow listeners: in order, bounded, and given up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from acestage.errors import DeadlineExceededError, ResourceExhaustedError
from acestage.protos.generation.v1.generation_pb2 import GenerateResponse, JobQueued
from services.orchestrator.outbox import Backlog, Outbox


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 10))


def event(position: int) -> GenerateResponse:
    return GenerateResponse(queued=JobQueued(job_id="x" * 100, position=position))


def test_events_arrive_in_order_and_then_it_ends() -> None:
    async def scenario() -> None:
        backlog, received = Backlog(1000), []

        async def write(response: GenerateResponse) -> None:
            received.append(response.queued.position)

        with Outbox(backlog) as outbox:
            for position in (3, 2, 1):
                outbox.put(event(position))
            assert backlog.waiting_bytes > 300
            outbox.end()
            await outbox.send(write, timeout_s=1)
        assert received == [3, 2, 1]
        assert backlog.waiting_bytes == 0

    run(scenario())


def test_a_listener_that_reads_nothing_is_given_up_and_its_bytes_are_freed() -> None:
    async def scenario() -> None:
        backlog = Backlog(1000)

        async def write(response: GenerateResponse) -> None:
            await asyncio.Event().wait()

        with Outbox(backlog) as outbox:
            outbox.put(event(1))
            outbox.put(event(2))
            with pytest.raises(DeadlineExceededError, match="read nothing"):
                await outbox.send(write, timeout_s=0.01)
        assert backlog.waiting_bytes == 0

    run(scenario())


def test_too_much_waiting_refuses_new_work_until_it_is_read() -> None:
    async def scenario() -> None:
        backlog = Backlog(150)
        with Outbox(backlog) as slow:
            slow.put(event(1))
            backlog.check()
            slow.put(event(2))
            with pytest.raises(ResourceExhaustedError, match="below 150"):
                backlog.check()
        backlog.check()

    run(scenario())
