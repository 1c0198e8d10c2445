"""The jobs that wait for a stage's device: their order, and how many there may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from acestage import errors
from services.runtime.jobs.stage_job import StageJob

MAX_LINE_COUNT = 1000
"""Jobs that may wait for a stage at most."""

MAX_LINE_BYTES = 1 << 30
"""Bytes of tensors that the jobs in line may have at most, all together: they wait in memory."""

LINE_RETRY_S = 5.0


class JobLine:
    """First come, first served, but for jobs that find their weights on the device.

    Attributes:
        occupied: set while jobs wait.
        emptied: set while none does.
    """

    def __init__(self, stage: str) -> None:
        """Args: stage: its name, for messages."""
        self.occupied = asyncio.Event()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._stage = stage
        self._jobs: deque[StageJob] = deque()
        self._tensor_bytes = 0
        self._before_count = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: object) -> bool:
        return job in self._jobs

    def __iter__(self) -> Iterator[StageJob]:
        """Those who wait now, whoever leaves meanwhile."""
        return iter(tuple(self._jobs))

    @property
    def first(self) -> StageJob:
        return self._jobs[0]

    def join(self, job: StageJob) -> None:
        """Puts `job` at the end.

        Raises:
            QueueFullError: too many jobs wait, or too many bytes.
        """
        if len(self._jobs) >= MAX_LINE_COUNT:
            raise self._full(f"{len(self._jobs)} jobs wait; accepted: up to {MAX_LINE_COUNT}", MAX_LINE_COUNT)
        if self._tensor_bytes + job.tensor_bytes > MAX_LINE_BYTES:
            raise self._full(
                f"{len(self._jobs)} jobs wait with {self._tensor_bytes} bytes of tensors; accepted: up to "
                f"{MAX_LINE_BYTES}, the {job.tensor_bytes} of this request included",
                MAX_LINE_BYTES,
            )
        self._jobs.append(job)
        self._tensor_bytes += job.tensor_bytes
        self._changed()

    def put_back(self, job: StageJob) -> None:
        """Puts `job`, which was taken and cannot go on yet, before all others."""
        self._jobs.appendleft(job)
        self._tensor_bytes += job.tensor_bytes
        self._changed()

    def leave(self, job: StageJob) -> bool:
        """Takes `job` out; False where it does not wait."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        self._tensor_bytes -= job.tensor_bytes
        self._changed()
        return True

    def stand_behind(self, count: int) -> None:
        """Says that `count` other holders wait for the device before the first in line."""
        self._before_count = count
        self._changed()

    def next(self, is_placed: Callable[[StageJob], bool], patience_s: float) -> StageJob:
        """Who is served next: the first whose weights lie on the device, or else the first of all.

        Args:
            is_placed: whether a job's weights do.
            patience_s: who was passed by others for so long is not passed again.
        """
        first = self._jobs[0]
        if first.passed_s() >= patience_s:
            return first
        for index, job in enumerate(self._jobs):
            if is_placed(job):
                for passed in islice(self._jobs, index):
                    passed.pass_by()
                return job
        return first

    def _changed(self) -> None:
        """Tells who is where, and whether anybody is there."""
        for event, is_set in ((self.occupied, bool(self._jobs)), (self.emptied, not self._jobs)):
            if is_set:
                event.set()
            else:
                event.clear()
        for index, job in enumerate(self._jobs, start=1):
            job.tell_position(self._before_count + index)

    def _full(self, what: str, limit: int) -> errors.QueueFullError:
        return errors.QueueFullError(
            f"{self._stage}: {what}",
            metadata={"stage": self._stage, "limit": str(limit)},
            retry_delay_s=LINE_RETRY_S,
        )
