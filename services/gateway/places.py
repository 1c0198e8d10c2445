"""Work that few may have going at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from acestage.errors import ResourceExhaustedError

_RETRY_S = 10.0


class Places:
    """A number of places that nobody waits for: who finds none is refused.

    Args:
        name: what takes them, in the plural, for people.
        count: how many there are.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._taken_count = 0

    @property
    def taken_count(self) -> int:
        return self._taken_count

    @contextmanager
    def take(self) -> Iterator[None]:
        """A place for as long as the block takes.

        Raises:
            ResourceExhaustedError: all are taken.
        """
        if self._taken_count >= self._count:
            raise ResourceExhaustedError(
                f"{self._name}: {self._count} are open; accepted: no more at a time", retry_delay_s=_RETRY_S
            )
        self._taken_count += 1
        try:
            yield
        finally:
            self._taken_count -= 1
