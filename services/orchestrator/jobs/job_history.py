"""Jobs that ended: the last of them, and how many ended how."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from acestage.errors import QueueFullError
from acestage.protobuf_times import duration, timestamp
from acestage.protos.generation.v1 import generation_pb2 as pb

KEPT_COUNT = 20

SUCCEEDED = "succeeded"
CANCELLED = "cancelled"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that ended.

    Attributes:
        total_s: from the request to the end.
        outcome: "succeeded", "cancelled", or the reason of the error, such as "WORKER_CRASHED".
        duration_s: of the music that was asked for; 0 where a job failed before that was known.
    """

    job_id: str
    ended_at: datetime
    total_s: float
    outcome: str
    duration_s: float
    batch_size: int

    @property
    def kind(self) -> str:
        """ "succeeded", "cancelled" or "failed"."""
        return self.outcome if self.outcome in (SUCCEEDED, CANCELLED) else FAILED

    def to_pb(self) -> pb.EndedJob:
        return pb.EndedJob(
            job_id=self.job_id,
            end_time=timestamp(self.ended_at),
            total_time=duration(self.total_s),
            outcome=self.outcome,
            duration_s=self.duration_s,
            batch_size=self.batch_size,
        )


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
