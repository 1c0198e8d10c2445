"""However many pages are open, the services are asked once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from acestage.async_client import AsyncClient
from acestage.errors import ServiceUnreachableError
from services.gateway.page.machine import Machine
from tests.unit.job_events import run


class FakeClient:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked_count = 0
        self.error: Exception | None = None

    async def limits(self, timeout_s: float) -> str:
        return f"limits {self.asked_count}"

    async def status(self, timeout_s: float) -> str:
        self.asked_count += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return f"status {self.asked_count}"


def test_pages_that_look_together_or_soon_after_share_one_answer() -> None:
    async def scenario() -> None:
        now = 0.0
        client = FakeClient()
        machine = Machine(cast(AsyncClient, client), 4.0, lambda: now)
        looks: list[Any] = await asyncio.gather(*(machine.look() for _ in range(5)))
        now = 3.9
        looks.append(await machine.look())
        assert {look[1] for look in looks} == {"status 1"}
        now = 4.0
        assert cast(Any, await machine.look())[1] == "status 2"
        assert client.asked_count == 2

    run(scenario())


def test_services_that_do_not_answer_are_asked_again_and_nothing_old_is_shown() -> None:
    async def scenario() -> None:
        client = FakeClient()
        now = 0.0
        machine = Machine(cast(AsyncClient, client), 4.0, lambda: now)
        await machine.look()
        now, client.error = 5.0, ServiceUnreachableError("gone")
        for _ in range(2):
            with pytest.raises(ServiceUnreachableError):
                await machine.look()
        client.error = None
        assert cast(Any, await machine.look())[1] == "status 4"

    run(scenario())
