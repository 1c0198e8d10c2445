"""What was made most recently, kept for the next request that needs the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Those of the keys that were asked for last, as many as fit into `max_bytes`; one key's always do.

    Args:
        max_bytes: of all together.
        byte_count: what one takes.
        keeps: whether one is worth keeping.
    """

    def __init__(
        self, max_bytes: int, byte_count: Callable[[V], int], keeps: Callable[[V], bool] = lambda made: True
    ) -> None:
        self._max_bytes = max_bytes
        self._byte_count = byte_count
        self._keeps = keeps
        self._kept: OrderedDict[K, V] = OrderedDict()

    async def get(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """What `key` stands for; `make` makes it where it is not there."""
        found = self._kept.pop(key) if key in self._kept else await make()
        if not self._keeps(found):
            return found
        self._kept[key] = found
        while len(self._kept) > 1 and sum(map(self._byte_count, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)
        return found
