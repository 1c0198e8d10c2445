"""Events of jobs for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from acestage.protos.generation.v1.generation_pb2 import GenerateResponse, JobQueued
from tests.unit.waiting import HANG_S

EVENT_BYTES = 106
"""Of `event(1)`."""


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, HANG_S))


def event(position: int) -> GenerateResponse:
    return GenerateResponse(queued=JobQueued(job_id="x" * 100, position=position))


class Listener:
    """Remembers the positions it heard.

    Attributes:
        reads: cleared, it takes nothing.
    """

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, response: GenerateResponse) -> None:
        await self.reads.wait()
        self.heard.append(response.queued.position)
