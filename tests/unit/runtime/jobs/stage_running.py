"""A stage at work, for tests of its runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from acestage import errors
from services.runtime.jobs.stage_event import Report, Started
from services.runtime.workers.messages import error_message
from tests.unit.stage_fakes import (
    Stage,
)
from tests.unit.waiting import HANG_S

OUT_OF_MEMORY = error_message(errors.VramBudgetExceededError("no memory"))

NOT_FINITE = error_message(errors.NonFiniteError("dit in float16: step 1 is not finite"))


def within(make: Callable[[], Stage], test: Callable[[Stage], Awaitable[Any]]) -> Stage:
    """Runs `test` with a stage that is entered and left; none may take long."""

    async def scenario() -> Stage:
        stage = make()
        async with asyncio.timeout(HANG_S), stage.runner:
            await test(stage)
        return stage

    return asyncio.run(scenario())


async def collect(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


def started_of(events: list[Any]) -> list[Started]:
    return [event for event in events if isinstance(event, Started)]


def report_of(events: list[Any]) -> Report:
    assert isinstance(events[-1], Report)
    return events[-1]
