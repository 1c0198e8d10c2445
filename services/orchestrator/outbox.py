"""Events on their way to listeners who may be slow. They wait in host memory, so that no listener ever holds
up a stage; how much may wait is bounded all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from acestage.errors import DeadlineExceededError, ResourceExhaustedError
from acestage.protos.generation.v1.generation_pb2 import GenerateResponse

Write = Callable[[GenerateResponse], Awaitable[None]]


class Backlog:
    """The bytes that wait for all listeners together."""

    def __init__(self, max_bytes: int) -> None:
        self.waiting_bytes = 0
        self._max_bytes = max_bytes

    def check(self) -> None:
        """Raises `ResourceExhaustedError` where too much waits for more work to be accepted."""
        if self.waiting_bytes > self._max_bytes:
            raise ResourceExhaustedError(
                f"{self.waiting_bytes} bytes wait for clients that do not read; new jobs are accepted below "
                f"{self._max_bytes}",
                metadata={"max_backlog_bytes": str(self._max_bytes)},
                retry_delay_s=10.0,
            )


class Outbox:
    """The events of one job. Use as a context manager: on leaving, what still waits is dropped."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._events: asyncio.Queue[GenerateResponse | None] = asyncio.Queue()
        self._waiting_bytes = 0

    def put(self, event: GenerateResponse) -> None:
        """Adds an event; never waits."""
        self._count(event.ByteSize())
        self._events.put_nowait(event)

    def end(self) -> None:
        """No more events will come."""
        self._events.put_nowait(None)

    async def send(self, write: Write, *, timeout_s: float) -> None:
        """Writes events as they come, until `end`.

        Raises:
            DeadlineExceededError: the listener took nothing for `timeout_s`.
        """
        while (event := await self._events.get()) is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await write(event)
            except TimeoutError as error:
                raise DeadlineExceededError(f"the client read nothing for {timeout_s:g} s") from error
            self._count(-event.ByteSize())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count(-self._waiting_bytes)

    def _count(self, size: int) -> None:
        self._waiting_bytes += size
        self._backlog.waiting_bytes += size
