"""Jobs that ended: the last of them, and how many ended how."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from acestage.errors import QueueFullError
from acestage.status import CANCELLED, FAILED, SUCCEEDED, EndedJob

KEPT_COUNT = 20


class JobHistory:
    """Remembers the last `KEPT_COUNT` jobs, but for those that no queue took, and counts all since the start.

    Args:
        on_ended: hears of every job that is added.
    """

    def __init__(self, on_ended: Callable[[EndedJob], None] = lambda job: None) -> None:
        self.counts = {SUCCEEDED: 0, FAILED: 0, CANCELLED: 0}
        self._on_ended = on_ended
        self._jobs: deque[EndedJob] = deque(maxlen=KEPT_COUNT)

    def add(self, job: EndedJob) -> None:
        self.counts[job.kind] += 1
        if job.outcome != QueueFullError.reason:  # a client that tries again would push out all others
            self._jobs.appendleft(job)
        self._on_ended(job)

    def recent(self) -> tuple[EndedJob, ...]:
        """The last jobs, the newest first."""
        return tuple(self._jobs)
