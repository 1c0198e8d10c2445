"""Waits for what may fail."""

from __future__ import annotations

import asyncio
import gc

import pytest

from services.runtime.processes.finishing import settled


def test_an_error_of_what_is_only_waited_for_is_nothing_to_complain_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        await settled(asyncio.create_task(fail()))

    asyncio.run(scenario())
    gc.collect()
    assert caplog.records == []
