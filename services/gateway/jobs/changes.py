"""A list that only grows until it is closed, and that any number of tasks may follow."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from services.runtime.processes.announcer import Announcer

T = TypeVar("T")


class Changes(Generic[T]):
    """Items in the order they came. Memory is bounded by `max_count`: what comes beyond it is left out,
    but for the last one."""

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._items: list[T] = []
        self._is_closed = False
        self._news = Announcer()

    @property
    def count(self) -> int:
        return len(self._items)

    def append(self, item: T) -> None:
        if len(self._items) < self._max_count:
            self._items.append(item)
            self._news.announce()

    def close(self, last: T) -> None:
        """Adds `last`, however many there are; no more come."""
        self._items.append(last)
        self._is_closed = True
        self._news.announce()

    async def follow(self, start: int = 0) -> AsyncGenerator[tuple[int, T], None]:
        """Items from number `start` on with their numbers, those to come too, until the list is closed.

        Who starts beyond the end still hears the last one, which says that it is the end.
        """
        number = start
        while True:
            while number < len(self._items):
                yield number, self._items[number]
                number += 1
            if self._is_closed:
                break
            await self._news.next.wait()
        if number == start:
            yield len(self._items) - 1, self._items[-1]
