"""What a page costs that is open, or was."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest
from fastapi import FastAPI

from acestage.async_client import AsyncClient
from services.gateway.exports.formats import ExportFormat
from services.gateway.gateway import Gateway
from services.gateway.page.languages import TEXTS
from services.gateway.page.machine import Machine
from services.gateway.page.song_page import KEPT_PAGE_COUNT, QUEUE_POLL_S, SongPage


def served_page() -> tuple[SongPage, FastAPI]:
    """A page without services, and what serves it. Gradio wants a loop that runs."""
    gateway = cast(Gateway, SimpleNamespace(book=None, formats=dict.fromkeys(ExportFormat, "")))
    page = SongPage(gateway, Machine(cast(AsyncClient, None), 1.0), TEXTS["en"], "/pt/")
    return page, gr.mount_gradio_app(FastAPI(), page.blocks, "/en", ssr_mode=False)


def test_of_many_pages_those_that_asked_last_are_kept() -> None:
    async def scenario() -> None:
        page, _ = served_page()
        sessions = page.blocks.state_holder
        first, second, *others = (str(number) for number in range(KEPT_PAGE_COUNT + 1))
        for session in (first, second, *others[:-1], first, others[-1]):
            assert sessions[session]
        assert len(sessions.session_data) == KEPT_PAGE_COUNT
        assert (first in sessions, second in sessions) == (True, False)

    asyncio.run(scenario())


def test_at_rest_a_page_wakes_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []

    async def scenario() -> None:
        _, app = served_page()
        loop = asyncio.get_running_loop()
        call_later, has_slept = loop.call_later, asyncio.Event()

        def note(delay: float, *values: Any, **options: Any) -> asyncio.TimerHandle:
            delays.append(delay)
            if len(delays) == 10:
                has_slept.set()
            return call_later(delay, *values, **options)

        monkeypatch.setattr(loop, "call_later", note)
        async with asyncio.timeout(10), app.router.lifespan_context(app):
            await has_slept.wait()

    asyncio.run(scenario())
    assert min(delays) >= QUEUE_POLL_S
