"""How long jobs take, from those that ended last."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from statistics import fmean

_KEPT_COUNT = 20
_TIMED_COUNT = 5
"""Steps that tell how long the others take; of short stages a third does."""


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

    def wait_s(self, queue_position: int, worked_s: Sequence[float]) -> float | None:
        """Seconds until a job at `queue_position` (1 is next) starts, about; None where nothing is known.

        Args:
            queue_position: in the queue.
            worked_s: for how long each job that is being made has been.
        """
        mean_run_s = self.mean_run_s
        if mean_run_s is None:
            return None
        left_s = [max(0.0, mean_run_s - s) for s in worked_s] or [mean_run_s]
        heapq.heapify(left_s)
        for _ in range(queue_position - 1):
            heapq.heapreplace(left_s, left_s[0] + mean_run_s)
        return left_s[0]


class StagePace:
    """Seconds that a stage still takes, from the steps that it has done. Takes the time as an argument.

    The first step takes loading along, and the first tiles are smaller than others: nothing is said before
    some steps more are done.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._first: tuple[float, int] = (0.0, 0)

    def left_s(self, stage: str, done_count: int, total_count: int, now_s: float) -> float | None:
        """None at the first steps of a stage."""
        if stage != self._stage or done_count <= self._first[1]:
            self._stage, self._first = stage, (now_s, done_count)
            return None
        begun_s, begun_count = self._first
        if done_count - begun_count < min(_TIMED_COUNT, max(1, total_count // 3)):
            return None
        return (now_s - begun_s) / (done_count - begun_count) * (total_count - done_count)
