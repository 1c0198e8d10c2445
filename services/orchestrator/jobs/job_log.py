"""The events of one job, from its first one on, for any number of listeners. They lie in host memory, so that
no listener ever holds up a stage or another listener."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from acestage.errors import AcestageError, DeadlineExceededError
from acestage.protos.generation.v1.generation_pb2 import GenerateResponse
from services.runtime.processes.announcer import Announcer

Write = Callable[[GenerateResponse], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How and when a job ended.

    Attributes:
        outcome: "succeeded", "cancelled", or the reason of the error.
        at_s: on the clock of whoever keeps the log.
        error: what listeners get after the last event; None where the job succeeded.
    """

    outcome: str
    at_s: float
    error: AcestageError | None = None


class JobLog:
    """A list that only grows until its `end`, and is gone when it is dropped.

    Attributes:
        size_bytes: of all events.
        listener_count: listeners that read it now.
        was_read: a listener got everything up to the end.
        room_bytes: what it is expected to take in the end; None until its job begins.
        ended: the end of the job; None while it is under way.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.size_bytes = 0
        self.listener_count = 0
        self.was_read = False
        self.room_bytes: int | None = None
        self.ended: JobEnd | None = None
        self._events: list[GenerateResponse] = []
        self._event_count = 0
        self._news = Announcer()

    def append(self, event: GenerateResponse) -> None:
        """Adds an event; never waits."""
        self.size_bytes += event.ByteSize()
        self._events.append(event)
        self._event_count += 1
        self._news.announce()

    def end(self, ended: JobEnd) -> None:
        """No more events will come."""
        self.ended = ended
        self._news.announce()

    def drop(self) -> None:
        """Frees the memory of an ended job's events; listeners who have not read them all get no more."""
        self._events.clear()

    async def send(self, write: Write, *, timeout_s: float) -> None:
        """Writes every event, from the first on: those that are there, then those that come, until the end.

        Raises:
            AcestageError: the job's own error, after its last event.
            DeadlineExceededError: the listener took nothing for `timeout_s`, or not all until the log was
                dropped.
        """
        self.listener_count += 1
        try:
            place = 0
            while place < len(self._events) or self.ended is None:
                news = self._news.next
                while place < len(self._events):
                    await _write(write, self._events[place], timeout_s)
                    place += 1
                if self.ended is None:
                    await news.wait()
            if place < self._event_count:
                raise DeadlineExceededError(
                    f"job {self.job_id}: its events were dropped before the client had read them all, since "
                    "other jobs need their room",
                    metadata={"job_id": self.job_id},
                )
            self.was_read = True
            if self.ended.error is not None:
                # A copy for each: an error that is raised gathers the frames that it passes through.
                raise copy.copy(self.ended.error)
        finally:
            self.listener_count -= 1


async def _write(write: Write, event: GenerateResponse, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await write(event)
    except TimeoutError as error:
        raise DeadlineExceededError(f"the client read nothing for {timeout_s:g} s") from error
