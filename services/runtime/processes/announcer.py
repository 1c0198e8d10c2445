"""Waking all tasks that wait for something to change."""

from __future__ import annotations

import asyncio


class Announcer:
    """Says again and again that something has changed, to any number of tasks of one event loop.

    A task that may have to wait for other things takes `next` before it looks at what may change, and waits
    for it after: so it misses nothing.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """Is set by the next announcement; those after it have events of their own."""
        return self._next

    def announce(self) -> None:
        """Wakes all who wait."""
        self._next.set()
        self._next = asyncio.Event()
