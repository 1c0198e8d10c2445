"""First come, first served: who may run now, and who is where in line."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from acestage.errors import QueueFullError


@dataclass(eq=False, slots=True)
class _Waiter:
    turn: asyncio.Future[None]
    on_position: Callable[[int], None]
    may_begin: Callable[[], bool]
    told_position: int = 0

    def tell(self, position: int) -> None:
        if position != self.told_position:
            self.told_position = position
            self.on_position(position)


class JobQueue:
    """Lets jobs run and wait in the order they came.

    Attributes:
        max_count: how many jobs may wait at most.
        running_count: how many run.
    """

    def __init__(self, *, max_count: int, slot_count: Callable[[], int]) -> None:
        """Prepares.

        Args:
            max_count: how many may wait at most.
            slot_count: how many may run; it is asked whenever one might begin, and fewer end none that runs.
        """
        self.max_count = max_count
        self.running_count = 0
        self._slot_count = slot_count
        self._waiters: deque[_Waiter] = deque()

    @property
    def queued_count(self) -> int:
        return len(self._waiters)

    @contextlib.asynccontextmanager
    async def turn(
        self, on_position: Callable[[int], None], may_begin: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[None]:
        """Waits for a slot and holds it for the body.

        Args:
            on_position: hears the place in line (1 is next) at once and at every change, and 0 at the start.
            may_begin: is asked when a slot is free and nobody is before; while it says no, the job waits at
                the head of the line, and is asked again at every `admit`. Its yes is asked for once.

        Raises:
            QueueFullError: too many jobs wait already.
        """
        await self._wait(on_position, may_begin)
        try:
            on_position(0)
            yield
        finally:
            self.running_count -= 1
            self.admit()

    def admit(self) -> None:
        """Gives free slots to those who may begin.

        Others call it where `may_begin`, or the number of slots, may have changed.
        """
        while self._waiters and self._has_free_slot():
            waiter = self._waiters[0]
            if not waiter.turn.done():  # a cancelled waiter may not have left the line yet
                if not waiter.may_begin():
                    break
                self.running_count += 1
                waiter.turn.set_result(None)
            self._waiters.popleft()
        self._tell_positions()

    async def _wait(self, on_position: Callable[[int], None], may_begin: Callable[[], bool]) -> None:
        if not self._waiters and self._has_free_slot() and may_begin():
            self.running_count += 1
            return
        if len(self._waiters) >= self.max_count:
            raise QueueFullError(
                f"queue: {len(self._waiters)} jobs wait; accepted: up to {self.max_count}",
                metadata={"queue_max_count": str(self.max_count)},
                retry_delay_s=10.0,
            )
        waiter = _Waiter(asyncio.get_running_loop().create_future(), on_position, may_begin)
        self._waiters.append(waiter)
        waiter.tell(len(self._waiters))
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.turn.cancelled():  # cancelled just after its turn came
                self.running_count -= 1
            self.admit()
            raise

    def _has_free_slot(self) -> bool:
        return self.running_count < self._slot_count()

    def _tell_positions(self) -> None:
        for position, waiter in enumerate(self._waiters, start=1):
            waiter.tell(position)
