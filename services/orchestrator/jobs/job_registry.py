"""Which jobs can be listened to, and how much their logs may take together. Takes the time as an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from acestage.errors import NotFoundError
from services.orchestrator.jobs.job_log import JobEnd, JobLog

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much is kept. Ten minutes of music are 230 MB.

    Attributes:
        held_bytes: what all logs take together at most, unless a single job is larger.
        read_s: for so long after its end the log of a job is held for those who read it: 1 GiB at 5 Mbit/s.
        kept_s: for so long the log of an ended job is kept.
        kept_count: ended jobs that are kept at most.
        kept_bytes: of their logs together.
    """

    held_bytes: int = 1024 * _MIB
    read_s: float = 1800.0
    kept_s: float = 900.0
    kept_count: int = 100
    kept_bytes: int = 512 * _MIB


class JobRegistry:
    """The logs of the jobs that run, and of those that ended not long ago.

    A log is *held* while its job runs, or somebody reads it, up to `read_s` after the end: all its bytes
    count, read or not, and nothing drops it. A job that runs counts with all that it is expected to write,
    so that it begins only where its log will have room. The others are *kept* within bounds: beyond them
    the log of the job that ended first is dropped, read or not, unless somebody reads it just then. A log
    beyond `kept_bytes` is kept all the same while its job is the last that ended and nobody has read it.
    For a job that is to begin any of them is dropped, also from those who read it, but those that nobody
    has read only after all others. A job that ended before its first event is not kept, because nobody
    knows its id.
    """

    def __init__(self, bounds: LogBounds) -> None:
        self._bounds = bounds
        self._logs: dict[str, JobLog] = {}

    def held_bytes(self, now: float) -> int:
        return sum(_held_bytes(log) for log in self._logs.values() if self._is_held(log, now))

    def begin(self, log: JobLog, expected_bytes: int, now: float) -> bool:
        """Whether the job of `log`, which is expected to grow so large, may begin now.

        Where it may, the room is its own, and kept logs make it. A job larger than all room has to be alone.
        """
        held_bytes = self.held_bytes(now)
        if held_bytes and held_bytes + expected_bytes > self._bounds.held_bytes:
            return False
        log.room_bytes = expected_bytes
        self._make_room(self._bounds.held_bytes - held_bytes - expected_bytes, now)
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
            Seconds until the next log is due, or no longer held for those who read it; None where none waits
            for that.
        """
        kept = self._ended(lambda log: not log.listener_count)
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
                self._drop(log)
                count -= 1
                size_bytes -= log.size_bytes
            else:
                left.append(ended)
        due = [end.at_s + self._bounds.kept_s for end in left[:1]]
        read = self._ended(lambda log: bool(log.listener_count) and self._is_held(log, now))
        due += [end.at_s + self._bounds.read_s for end, _ in read[:1]]
        return min(due) - now if due else None

    def _make_room(self, room_bytes: int, now: float) -> None:
        """Drops kept logs until they take no more than `room_bytes`: from the oldest on those that were read,
        then from the oldest on those that were not.
        """
        kept = [log for _, log in self._ended(lambda log: not self._is_held(log, now))]
        size_bytes = sum(log.size_bytes for log in kept)
        read = [log for log in kept if log.was_read]
        unread = [log for log in kept if not log.was_read]
        for log in read + unread:
            if size_bytes <= room_bytes:
                break
            self._drop(log)
            size_bytes -= log.size_bytes

    def _drop(self, log: JobLog) -> None:
        del self._logs[log.job_id]
        log.drop()

    def _ended(self, which: Callable[[JobLog], bool]) -> list[tuple[JobEnd, JobLog]]:
        """The logs of ended jobs that are meant by `which`, the oldest end first."""
        found = [(log.ended, log) for log in self._logs.values() if log.ended and which(log)]
        return sorted(found, key=lambda entry: entry[0].at_s)

    def _is_held(self, log: JobLog, now: float) -> bool:
        if log.ended is None:
            return log.room_bytes is not None
        return bool(log.listener_count) and now < log.ended.at_s + self._bounds.read_s


def _held_bytes(log: JobLog) -> int:
    """What a log that is held takes: that of a job that runs what it will take in the end."""
    return log.size_bytes if log.ended else max(log.room_bytes or 0, log.size_bytes)
