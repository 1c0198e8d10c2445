"""Which jobs can be listened to, and how much their logs may take together. Takes the time as an argument."""

from __future__ import annotations

from dataclasses import dataclass

from acestage.errors import NotFoundError
from services.orchestrator.jobs.job_log import JobEnd, JobLog

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much is kept. Ten minutes of music are 230 MB.

    Attributes:
        held_bytes: what all logs take together at most, unless a single job is larger.
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

    A log is *held* while its job runs or somebody reads it after the end: all its bytes count, read or not,
    and nothing drops it. A job that runs counts with all that it is expected to write, so that it begins only
    where its log will have room. The others are *kept* within bounds: beyond them the log of the job that
    ended first is dropped, read or not. A log beyond `kept_bytes` is kept all the same while its job is the
    last that ended and nobody has read it. For a job that is to begin any of them is dropped, but those that
    nobody has read only after all others. A job that ended before its first event is not kept, because nobody
    knows its id.
    """

    def __init__(self, bounds: LogBounds) -> None:
        self._bounds = bounds
        self._logs: dict[str, JobLog] = {}

    @property
    def held_bytes(self) -> int:
        return sum(_held_bytes(log) for log in self._logs.values())

    def begin(self, log: JobLog, expected_bytes: int) -> bool:
        """Whether the job of `log`, which is expected to grow so large, may begin now.

        Where it may, the room is its own, and kept logs make it. A job larger than all room has to be alone.
        """
        held_bytes = self.held_bytes
        if held_bytes and held_bytes + expected_bytes > self._bounds.held_bytes:
            return False
        log.room_bytes = expected_bytes
        self._make_room(self._bounds.held_bytes - held_bytes - expected_bytes)
        return True

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
            f"the last {bounds.kept_count} of them and {bounds.kept_bytes // _MIB} MiB at most, and none "
            "from before the orchestrator was started",
            metadata={"job_id": job_id},
        )

    def prune(self, now: float) -> float | None:
        """Drops what is beyond the bounds of kept logs, from the oldest on.

        Returns:
            Seconds until the next log is due; None where none waits for that.
        """
        kept = self._kept()
        count = len(kept)
        size_bytes = sum(log.size_bytes for _, log in kept)
        left: list[JobEnd] = []
        for ended, log in kept:
            is_due = now >= ended.at_s + self._bounds.kept_s
            are_too_many = count > self._bounds.kept_count
            is_last_unread = log is kept[-1][1] and not log.was_read
            are_too_large = size_bytes > self._bounds.kept_bytes and not is_last_unread
            nobody_knows_it = not log.size_bytes
            if is_due or are_too_many or are_too_large or nobody_knows_it:
                del self._logs[log.job_id]
                count -= 1
                size_bytes -= log.size_bytes
            else:
                left.append(ended)
        return left[0].at_s + self._bounds.kept_s - now if left else None

    def _make_room(self, room_bytes: int) -> None:
        """Drops kept logs until they take no more than `room_bytes`: from the oldest on those that were read,
        then from the oldest on those that were not.
        """
        kept = [log for _, log in self._kept()]
        size_bytes = sum(log.size_bytes for log in kept)
        read = [log for log in kept if log.was_read]
        unread = [log for log in kept if not log.was_read]
        for log in read + unread:
            if size_bytes <= room_bytes:
                break
            del self._logs[log.job_id]
            size_bytes -= log.size_bytes

    def _kept(self) -> list[tuple[JobEnd, JobLog]]:
        """The oldest end first."""
        kept = [(log.ended, log) for log in self._logs.values() if log.ended and not log.listener_count]
        return sorted(kept, key=lambda entry: entry[0].at_s)


def _held_bytes(log: JobLog) -> int:
    if log.ended is not None:
        return log.size_bytes if log.listener_count else 0
    return 0 if log.room_bytes is None else max(log.room_bytes, log.size_bytes)
