"""What was made most recently, kept for the next request that needs the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values of the `max_count` keys that were asked for last."""

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._values: OrderedDict[K, V] = OrderedDict()

    async def get(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """The value of `key`; `make` makes it where it is not there, and nothing is kept where that fails."""
        value = self._values.pop(key) if key in self._values else await make()
        self._values[key] = value
        if len(self._values) > self._max_count:
            self._values.popitem(last=False)
        return value
