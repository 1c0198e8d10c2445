"""How soon answers begin is counted for routes and methods that there are."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.gateway.rest.answer_times import AnswerTimes


async def broken() -> None:
    raise LookupError("a defect")


async def song(number: int) -> int:
    return number


def counts_after(*requests: tuple[str, str]) -> dict[tuple[str, str, str], float]:
    """How many answers there were, by method, route and status."""
    registry = CollectorRegistry()
    app = FastAPI()
    app.add_middleware(AnswerTimes, registry=registry)
    app.get("/songs/{number}")(song)
    app.get("/broken")(broken)

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            for method, path in requests:
                await http.request(method, path)

    asyncio.run(ask())
    (family,) = registry.collect()
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_count")
    }


def test_answers_count_for_their_route_whatever_its_parts() -> None:
    assert counts_after(("GET", "/songs/1"), ("GET", "/songs/2")) == {("GET", "/songs/{number}", "200"): 2.0}


@pytest.mark.parametrize("method", ["BREW", "GETS"])
def test_made_up_methods_and_paths_are_one(method: str) -> None:
    counts = counts_after((method, "/none/1"), ("WHATEVER", "/none/2"))
    assert counts == {("other", "none", "404"): 2.0}


def test_a_defect_counts_as_one() -> None:
    assert counts_after(("GET", "/broken")) == {("GET", "/broken", "500"): 1.0}
