from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from services.gateway.origin_guard import OriginGuard


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(
    host: str,
    origin: str | None = None,
    method: str = "POST",
    bound: str = "127.0.0.1",
    *,
    has_key: bool = False,
) -> httpx.Response:
    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(OriginGuard(app, bound, has_key=has_key))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            headers = {"Host": host} | ({"Origin": origin} if origin is not None else {})
            return await client.request(method, "/", headers=headers)

    return asyncio.run(work())


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost", "LOCALHOST:1", "[::1]:8001"])
@pytest.mark.parametrize("origin", [None, "http://localhost:3000", "http://127.0.0.1:7860", "http://[::1]"])
def test_programs_and_pages_of_this_machine_may_come(host: str, origin: str | None) -> None:
    assert ask(host, origin).status_code == 204


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8001", "", "[", "10.0.0.1"])
def test_another_name_for_this_machine_is_refused(host: str) -> None:
    answer = ask(host, method="GET")
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("Host: ")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://localhost.evil.example", "http://["]
)
def test_another_site_changes_nothing(origin: str) -> None:
    answer = ask("127.0.0.1", origin)
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("Origin: ")
    assert ask("127.0.0.1", origin, method="GET").status_code == 204


def test_the_bound_name_is_served_and_so_are_its_pages() -> None:
    assert ask("studio.lan:8001", "http://studio.lan", bound="studio.lan").status_code == 204
    assert ask("studio.lan", "http://evil.example", bound="studio.lan").status_code == 403


@pytest.mark.parametrize(
    "host", ["10.0.0.7:8001", "[fd00::7]:8001", "gateway:8001", "studio.lan", "Studio.local:8001"]
)
def test_a_wildcard_serves_what_no_other_site_can_have_for_its_name(host: str) -> None:
    assert ask(host, f"http://{host}", bound="0.0.0.0").status_code == 204
    assert ask(host, "http://evil.example", bound="0.0.0.0").status_code == 403


def test_a_name_of_another_site_that_points_here_is_refused_unless_a_key_is_asked_for() -> None:
    answer = ask("evil.example:8001", "http://evil.example:8001", bound="0.0.0.0")
    assert answer.status_code == 403
    assert "names without a dot" in answer.json()["detail"]
    assert ask("evil.example", method="GET", bound="0.0.0.0").status_code == 403
    assert ask("songs.example", "https://songs.example", bound="::", has_key=True).status_code == 204
    assert ask(socket.gethostname(), method="GET", bound="::").status_code == 204
