"""How long jobs take, from those that ended last."""

from __future__ import annotations

from collections import deque
from statistics import fmean

_KEPT_COUNT = 20


class Pace:
    """Seconds of work of the last jobs that succeeded."""

    def __init__(self) -> None:
        self._run_s: deque[float] = deque(maxlen=_KEPT_COUNT)

    def add(self, run_s: float) -> None:
        self._run_s.append(run_s)

    @property
    def mean_run_s(self) -> float | None:
        """None before the first job."""
        return fmean(self._run_s) if self._run_s else None

    def wait_s(self, queue_position: int, running_count: int) -> float | None:
        """Seconds until a job at `queue_position` (1 is next) starts, about; None where nothing is known."""
        mean_run_s = self.mean_run_s
        if mean_run_s is None:
            return None
        return queue_position * mean_run_s / max(1, running_count)


class StagePace:
    """Seconds that a stage still takes, from the steps that it has done. Takes the time as an argument."""

    def __init__(self) -> None:
        self._stage = ""
        self._first: tuple[float, int] = (0.0, 0)

    def left_s(self, stage: str, done_count: int, total_count: int, now_s: float) -> float | None:
        """None at the first step of a stage, which took its loading along."""
        if stage != self._stage or done_count <= self._first[1]:
            self._stage, self._first = stage, (now_s, done_count)
            return None
        begun_s, begun_count = self._first
        return (now_s - begun_s) / (done_count - begun_count) * (total_count - done_count)
