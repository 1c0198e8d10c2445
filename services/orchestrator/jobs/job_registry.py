"""Which jobs can be listened to, and how much their logs may take together. Takes the time as an argument."""

from __future__ import annotations

from dataclasses import dataclass

from acestage.errors import NotFoundError, ResourceExhaustedError
from services.orchestrator.jobs.job_log import JobEnd, JobLog

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much is kept. Ten minutes of music are 230 MB.

    Attributes:
        held_bytes: no job is accepted while logs that cannot be dropped take more than this.
        kept_s: for so long the log of an ended job is kept.
        kept_count: ended jobs that are kept at most.
        kept_bytes: of their logs together.
    """

    held_bytes: int = 1024 * _MIB
    kept_s: float = 900.0
    kept_count: int = 100
    kept_bytes: int = 512 * _MIB


class JobRegistry:
    """The logs of the jobs that run, and of those that ended not long ago.

    A log is *held* while its job has not ended or somebody reads it: all its bytes count, read or not, and
    nothing drops it. The others are *kept* within bounds, and the job that ended first is dropped first. A
    log beyond `kept_bytes` is kept all the same while its job is the last that ended and nobody has read it.
    A job that ended before its first event is not kept, because nobody knows its id.
    """

    def __init__(self, bounds: LogBounds) -> None:
        self._bounds = bounds
        self._logs: dict[str, JobLog] = {}

    @property
    def held_bytes(self) -> int:
        return sum(log.size_bytes for log in self._logs.values() if _is_held(log))

    def check(self) -> None:
        """Raises `ResourceExhaustedError` where too much is held for more work to be accepted."""
        held_bytes = self.held_bytes
        if held_bytes > self._bounds.held_bytes:
            raise ResourceExhaustedError(
                f"the events of jobs that run, and of those that clients still read, take {held_bytes} bytes;"
                f" new jobs are accepted up to {self._bounds.held_bytes}",
                metadata={"max_held_bytes": str(self._bounds.held_bytes)},
                retry_delay_s=10.0,
            )

    def add(self, log: JobLog) -> None:
        self._logs[log.job_id] = log

    def find(self, job_id: str) -> JobLog:
        """The log of a job.

        Raises:
            NotFoundError: there is none, or not any more.
        """
        if (log := self._logs.get(job_id)) is not None:
            return log
        bounds = self._bounds
        raise NotFoundError(
            f"job_id: no job {job_id!r} is known; jobs that ended are kept for {bounds.kept_s / 60:g} min, "
            f"the last {bounds.kept_count} of them and {bounds.kept_bytes // _MIB} MiB at most",
            metadata={"job_id": job_id},
        )

    def prune(self, now: float) -> float | None:
        """Drops what is beyond the bounds.

        Returns:
            Seconds until the next log is due; None where none waits for that.
        """
        kept = sorted(
            ((log.ended, log) for log in self._logs.values() if log.ended and not log.listener_count),
            key=lambda entry: entry[0].at_s,
        )
        count = len(kept)
        size_bytes = sum(log.size_bytes for _, log in kept)
        left: list[JobEnd] = []
        for ended, log in kept:
            is_spared = log is kept[-1][1] and not log.was_read
            if (
                now >= ended.at_s + self._bounds.kept_s
                or count > self._bounds.kept_count
                or (size_bytes > self._bounds.kept_bytes and not is_spared)
                or not log.size_bytes
            ):
                del self._logs[log.job_id]
                count -= 1
                size_bytes -= log.size_bytes
            else:
                left.append(ended)
        return left[0].at_s + self._bounds.kept_s - now if left else None


def _is_held(log: JobLog) -> bool:
    return log.ended is None or log.listener_count > 0
