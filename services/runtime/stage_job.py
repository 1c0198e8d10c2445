"""One job of a stage, from its request to its end."""

from __future__ import annotations

import asyncio

from acestage.errors import AcestageError
from services.runtime.ladder import Ladder
from services.runtime.messages import Message
from services.runtime.stage_event import StageEvent


class StageJob:
    """A request, the events for who asked, and how it ended.

    Events wait in host memory, so that a slow reader never holds the device longer.

    Attributes:
        request: what is to be done.
        asked_at: when, on the event loop's clock.
        cancelled: set once nobody wants the result any more.
        ladder: how it is done, and how far it got; None before it was planned.
        shortage_count: how often the device had less than its lease.
    """

    def __init__(self, request: Message) -> None:
        self.request = request
        self.ladder: Ladder | None = None
        self.shortage_count = 0
        self.asked_at = asyncio.get_running_loop().time()
        self.cancelled = asyncio.Event()
        self._events: asyncio.Queue[StageEvent | None] = asyncio.Queue()
        self._error: AcestageError | None = None
        self._ended = asyncio.Event()

    def emit(self, event: StageEvent) -> None:
        self._events.put_nowait(event)

    def end(self, error: AcestageError | None = None) -> None:
        """No more events will come; `error` says why the job failed. The first call counts."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()
            self._events.put_nowait(None)

    async def next_event(self) -> StageEvent | None:
        """The next event; None once the job has ended well.

        Raises:
            AcestageError: why it failed.
        """
        event = await self._events.get()
        if event is None and self._error is not None:
            raise self._error
        return event

    async def ended(self) -> None:
        """Returns once nothing works on the job any more."""
        await self._ended.wait()
