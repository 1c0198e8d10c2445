"""Which models the orchestrator serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from acestage.async_client import AsyncClient
from acestage.errors import AcestageError

TIMEOUT_S = 1.0
MAX_AGE_S = 60.0


class ServedModels:
    """The default model, for who has no use for an error instead.

    Args:
        client: of the orchestrator.
        clock: seconds, from anywhere.
    """

    def __init__(self, client: AsyncClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._default = ""
        self._asked_at: float | None = None

    async def default(self) -> str:
        """The model of requests that name none, at most `MAX_AGE_S` old; empty where nobody has said it.

        While the orchestrator does not answer it is the last that was known.
        """
        if self._asked_at is None or self._clock() - self._asked_at >= MAX_AGE_S:
            self._asked_at = self._clock()  # who asks meanwhile does not wait
            with suppress(AcestageError):
                served = (await self._client.status(TIMEOUT_S)).served_models
                self._default = served[0] if served else self._default
        return self._default
