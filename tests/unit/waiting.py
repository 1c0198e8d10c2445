"""What waits for other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HANG_S = 60.0
"""What takes so long hangs, also on a busy machine."""


async def until(condition: Callable[[], object]) -> None:
    """Lets other tasks run until `condition` holds, for `HANG_S` at most."""
    async with asyncio.timeout(HANG_S):
        while not condition():  # noqa: ASYNC110 - it may be about anything, which has no event
            await asyncio.sleep(0)
