"""What waits for other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Lets other tasks run until `condition` holds, for 10 s at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it may be about anything, which has no event
            await asyncio.sleep(0)
