"""Whoever has not the key gets nothing, by whatever route."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.rest.rest_door import Door, through_door
from tests.unit.gateway.scripted_orchestrator import ScriptedOrchestrator, song

OPEN = {("GET", "/health")}
UNDESCRIBED = {("HEAD", "/v1/audio"), ("HEAD", "/v1/jobs/{job_id}/audio"), ("GET", "/metrics")}
"""Routes that need not be in the description, and must be asked of all the same."""
LEAST_ROUTE_COUNT = 25


async def described_routes(door: Door) -> set[tuple[str, str]]:
    """Method and template of every route."""
    paths = (await door.http.get("/openapi.json")).json()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


@pytest.mark.parametrize("content", [{}, {"json": {"prompt": "jazz"}}, {"data": {"prompt": "jazz"}}])
@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "kéy".encode()}])
def test_every_route_but_health_asks_for_the_key(
    tmp_path: Path, given: dict[str, Any], content: dict[str, Any]
) -> None:
    async def body(door: Door) -> None:
        routes = await described_routes(door) | UNDESCRIBED
        assert routes > OPEN
        assert len(routes) >= LEAST_ROUTE_COUNT
        for method, template in sorted(routes):
            url = re.sub(r"{\w+}", "abc", template)
            answer = await door.http.request(method, url, headers=given, **content)
            expected = 200 if (method, template) in OPEN else 401
            assert answer.status_code == expected, (method, template)
            if expected == 401 and method != "HEAD":
                assert answer.json()["reason"] == "UNAUTHENTICATED"
        assert client.started == []

    client = ScriptedOrchestrator(song("abc"))
    through_door(tmp_path, client, body, secret="k3y")
