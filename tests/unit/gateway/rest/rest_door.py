"""The REST interface over a scripted orchestrator, without a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from acestage.async_client import AsyncClient
from services.gateway.exports.formats import ExportFormat
from services.gateway.gateway import Gateway
from services.gateway.jobs.job_book import JobBook
from services.gateway.outputs.export_shelf import ExportShelf
from services.gateway.outputs.output_area import OutputArea
from services.gateway.rest.app import create_rest_app
from services.gateway.served_models import ServedModels
from services.runtime.rpc.api_key import ApiKey
from tests.unit.gateway.scripted_orchestrator import ScriptedOrchestrator
from tests.unit.waiting import HANG_S


@dataclass(frozen=True)
class Door:
    """An open door: `http` speaks to it, `gateway` stands behind it."""

    http: httpx.AsyncClient
    gateway: Gateway

    async def ended(self, job_id: str) -> None:
        await self.gateway.book.find(job_id).ended()


@asynccontextmanager
async def open_door(
    root: Path, client: ScriptedOrchestrator, secret: str | None = None
) -> AsyncIterator[Door]:
    with closing(OutputArea(root, max_bytes=1 << 30, max_age_s=3600.0)) as area:
        orchestrator = cast(AsyncClient, client)
        async with JobBook(orchestrator, area) as book:
            formats = dict.fromkeys(ExportFormat, "")
            models = ServedModels(orchestrator)
            gateway = Gateway(orchestrator, book, area, ExportShelf(), formats, models)
            transport = httpx.ASGITransport(create_rest_app(gateway, ApiKey(secret)))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                yield Door(http, gateway)


def through_door(
    root: Path,
    client: ScriptedOrchestrator,
    body: Callable[[Door], Awaitable[Any]],
    secret: str | None = None,
) -> Any:
    """What `body` returns, with a door that is open meanwhile."""

    async def work() -> Any:
        async with asyncio.timeout(HANG_S), open_door(root, client, secret) as door:
            return await body(door)

    return asyncio.run(work())
