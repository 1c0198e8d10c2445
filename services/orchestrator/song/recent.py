"""Tensors that were made most recently, kept for the next request that needs the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from acestage.tensors import WireTensor

K = TypeVar("K", bound=Hashable)


class Recent(Generic[K]):
    """Those of the keys that were asked for last, as many as fit into `max_bytes`; one key's always do."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, tuple[WireTensor, ...]] = OrderedDict()

    async def get(
        self, key: K, make: Callable[[], Awaitable[tuple[WireTensor, ...]]]
    ) -> tuple[WireTensor, ...]:
        """The tensors of `key`; `make` makes them where they are not there."""
        tensors = self._kept.pop(key) if key in self._kept else await make()
        self._kept[key] = tensors
        while len(self._kept) > 1 and self._byte_count() > self._max_bytes:
            self._kept.popitem(last=False)
        return tensors

    def _byte_count(self) -> int:
        return sum(len(tensor.data) for tensors in self._kept.values() for tensor in tensors)
