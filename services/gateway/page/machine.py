"""What the services are and allow, asked for once for all pages that are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from acestage.async_client import AsyncClient
from acestage.limits import Limits
from acestage.status import Status

TIMEOUT_S = 5.0
"""A stage that does not answer costs the orchestrator 2 s."""


class Machine:
    """Limits and status, at most `max_age_s` old: every stage adds up its memory for each status.

    Args:
        client: asks the orchestrator.
        max_age_s: in seconds of `clock`.
        clock: counts from anywhere.
    """

    def __init__(
        self, client: AsyncClient, max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._max_age_s = max_age_s
        self._clock = clock
        self._found: tuple[Limits, Status] | None = None
        self._found_at = 0.0
        self._asking = asyncio.Lock()

    async def look(self) -> tuple[Limits, Status]:
        """
        Raises:
            AcestageError: the services do not answer; the next one who looks asks them again.
        """
        async with self._asking:
            if self._found is None or self._clock() - self._found_at >= self._max_age_s:
                self._found = None
                self._found = await asyncio.gather(
                    self._client.limits(TIMEOUT_S), self._client.status(TIMEOUT_S)
                )
                self._found_at = self._clock()
            return self._found
