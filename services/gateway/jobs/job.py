"""A job of a front door: its record, its events, its audio as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.gateway.jobs.changes import Changes
from services.gateway.jobs.live_take import LiveTake
from services.gateway.jobs.record import JobRecord
from services.runtime.processes.announcer import Announcer

MAX_EVENT_COUNT = 20_000


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One message of the orchestrator about a job: its name, and what JSON can hold of it."""

    name: str
    data: dict[str, Any]


class Job:
    """One job. Only the event loop's thread uses it.

    Attributes:
        record: how it stands; replaced as a whole at every change.
        folder: for its files.
        events: what happened, from the first message on.
        first_event: number of the first of them; of a job that ended in an earlier start only the last is
            there.
    """

    def __init__(self, record: JobRecord, folder: Path) -> None:
        self.record = record
        self.folder = folder
        self.first_event = max(record.event_count - 1, 0)
        self.events: Changes[JobEvent] = Changes(MAX_EVENT_COUNT)
        self._changes = Announcer()
        self._takes: dict[int, LiveTake] = {}

    @property
    def job_id(self) -> str:
        return self.record.job_id

    def update(self, record: JobRecord) -> None:
        self.record = record
        self._changes.announce()

    async def changed(self) -> None:
        """Returns at the next change of the record, or when a take begins."""
        await self._changes.next.wait()

    async def ended(self) -> None:
        """Returns once the job has ended, however."""
        while not self.record.state.is_final:
            await self._changes.next.wait()

    def has_ended_with(self, event_number: int) -> bool:
        """Whether the job has ended, and that event is its last."""
        return self.record.state.is_final and event_number == self.first_event + self.events.count - 1

    def live_take(self, index: int) -> LiveTake | None:
        """Take number `index` while it is being decoded; None before and after."""
        return self._takes.get(index)

    def begin_take(self, index: int) -> LiveTake:
        """The take for the samples of number `index`, made where it is not there yet.

        Raises:
            OSError: its file cannot be made.
        """
        take = self._takes.get(index)
        if take is None:
            take = self._takes[index] = LiveTake(self.folder / f"take-{index}.f32")
            self._changes.announce()
        return take

    def close_takes(self, are_whole: bool) -> None:
        """No more samples come; all came where they `are_whole`."""
        for take in self._takes.values():
            take.close(are_whole)
        self._takes.clear()
        self._changes.announce()
