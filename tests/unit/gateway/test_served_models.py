"""The default model is known without waiting for it each time."""

from __future__ import annotations

import asyncio
from typing import cast

from acestage.async_client import AsyncClient
from acestage.errors import ServiceUnreachableError
from acestage.status import Status
from services.gateway.served_models import MAX_AGE_S, ServedModels
from tests.unit.gateway.scripted_orchestrator import ScriptedOrchestrator
from tests.unit.waiting import until


class Asked(ScriptedOrchestrator):
    """Counts who asks, and answers while it `is_there`, once it `may_answer`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_there = True
        self.asked_count = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def status(self, timeout_s: float) -> Status:
        self.asked_count += 1
        await self.may_answer.wait()
        if not self.is_there:
            raise ServiceUnreachableError("orchestrator at 127.0.0.1:1 does not answer")
        return await super().status(timeout_s)


def test_the_default_is_asked_for_once_in_a_while() -> None:
    async def body() -> None:
        assert await models.default() == "tiny"
        now[0] += MAX_AGE_S - 1
        assert await models.default() == "tiny"
        assert client.asked_count == 1
        now[0] += 1
        client.is_there = False
        assert await models.default() == "tiny"
        assert client.asked_count == 2

    now, client = [100.0], Asked()
    models = ServedModels(cast(AsyncClient, client), lambda: now[0])
    asyncio.run(body())


def test_an_orchestrator_that_is_away_is_not_asked_every_time() -> None:
    async def body() -> None:
        assert [await models.default() for _ in range(3)] == ["", "", ""]
        assert client.asked_count == 1
        client.is_there = True
        now[0] += MAX_AGE_S
        assert await models.default() == "tiny"

    now, client = [100.0], Asked()
    client.is_there = False
    models = ServedModels(cast(AsyncClient, client), lambda: now[0])
    asyncio.run(body())


def test_who_asks_while_another_asks_does_not_wait() -> None:
    async def body() -> None:
        client.may_answer.clear()
        first = asyncio.create_task(models.default())
        await until(lambda: client.asked_count)
        async with asyncio.timeout(1):
            assert await models.default() == ""
        client.may_answer.set()
        assert await first == "tiny"
        assert client.asked_count == 1

    client = Asked()
    models = ServedModels(cast(AsyncClient, client))
    asyncio.run(body())
