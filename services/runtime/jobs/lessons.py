"""What a stage learnt from attempts that failed, so that the jobs after them begin with what works."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from acestage.errors import AcestageError, DeviceShortageError, NonFiniteError, VramBudgetExceededError
from services.runtime.jobs.ladder import Ladder

LESSON_S = 300.0
"""How long a stage goes by what it learnt. Finding it out again takes the start of one or two workers."""

OVERFLOW_COUNT = 2
"""So many jobs in a row that overflowed float16 show that it is not their songs: some cards do so in all."""


@dataclass(frozen=True, slots=True)
class _Lesson:
    error: AcestageError
    end: float

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end


class Lessons:
    """Holds for all jobs of a stage on one device."""

    def __init__(self) -> None:
        self._shortage: _Lesson | None = None
        self._free_bytes = 0
        self._overflow_counts: Counter[tuple[str, str]] = Counter()
        self._overflows: dict[tuple[str, str], _Lesson] = {}

    def shortage(self, error: DeviceShortageError, free_bytes: int) -> None:
        """Other programs left no more than `free_bytes` of a device that the stage had alone."""
        self._shortage = _lesson(DeviceShortageError(_earlier(error)))
        self._free_bytes = free_bytes

    def overflow(self, model: str, kind: str, error: NonFiniteError) -> bool:
        """A job of `kind` overflowed float16 with the weights of `model`; whether that is a lesson."""
        self._overflow_counts[model, kind] += 1
        if self._overflow_counts[model, kind] < OVERFLOW_COUNT:
            return False
        self._overflows[model, kind] = _lesson(NonFiniteError(_earlier(error)))
        return True

    def no_overflow(self, model: str, kind: str) -> None:
        """One went well in float16."""
        del self._overflow_counts[model, kind]

    def apply(self, plan: Callable[[], Ladder]) -> Ladder:
        """What `plan` gives, taken to the first way that may work, or as near to it as it goes.

        After overflows that is one in float32; where none fits, float16 is tried as ever.
        """
        ladder = plan()
        overflow = self._overflows.get((ladder.placement.model, ladder.attempt.request.kind))
        if overflow is not None and not overflow.is_over and ladder.attempt.dtype == "float16":
            in_float32 = plan()
            if _step_down(in_float32, overflow.error) and self._fit(in_float32):
                return in_float32
        self._fit(ladder)
        return ladder

    def _fit(self, ladder: Ladder) -> bool:
        """Takes `ladder` down to what others left; False where not even the least is as small."""
        if self._shortage is None or self._shortage.is_over:
            return True
        while ladder.attempt.vram_bytes > self._free_bytes:
            if not _step_down(ladder, self._shortage.error):
                return False
        return True


def _step_down(ladder: Ladder, error: AcestageError) -> bool:
    """Takes `ladder` to the next way after `error`; False where there is none."""
    try:
        ladder.step_down(error)
    except VramBudgetExceededError:
        return False
    return True


def _earlier(error: AcestageError) -> str:
    return f"in an earlier job: {error.message}"


def _lesson(error: AcestageError) -> _Lesson:
    return _Lesson(error, time.monotonic() + LESSON_S)
