"""The ways of doing a job, from the best that fits downwards, as one after the other fails."""

from __future__ import annotations

from dataclasses import dataclass, field

from acestage.errors import AcestageError, NonFiniteError, VramBudgetExceededError
from services.runtime.job_budget import (
    Adaptation,
    AdaptationKind,
    Attempt,
    JobBudget,
    Resources,
    first_that_fits,
)
from services.runtime.messages import Message


@dataclass(slots=True)
class _Rung:
    """Where on the ladder a job is: data type, index of the way in it, and what is still to be done."""

    dtype: str
    index: int
    left: Message
    adaptations: list[Adaptation] = field(default_factory=list)


class Ladder:
    """Starts with the best way that fits on the device by plan.

    Args:
        stage: for messages.
        budget: knows the ways.
        resources: what there is to work with.
        request: the job.

    Raises:
        VramBudgetExceededError: by plan, no way fits.
    """

    def __init__(self, stage: str, budget: JobBudget, resources: Resources, request: Message) -> None:
        self._stage = stage
        self._budget = budget
        self._resources = resources
        index, _ = first_that_fits(budget.ways(request, resources, resources.dtype), stage, resources)
        self._rung = _Rung(resources.dtype, index, request)

    @property
    def attempt(self) -> Attempt:
        """What is to be tried now: what is still to be done, in the present way."""
        rung = self._rung
        return self._budget.ways(rung.left, self._resources, rung.dtype)[rung.index][1]

    @property
    def adaptations(self) -> tuple[Adaptation, ...]:
        """What was changed so far, in order."""
        return tuple(self._rung.adaptations)

    def sent(self, event: Message) -> None:
        """Notes that `event` has reached the client, and need not be made again."""
        self._rung.left = self._budget.remaining(self._rung.left, event)

    def step_down(self, error: AcestageError) -> None:
        """Goes on to the next way after `error`.

        Raises:
            AcestageError: `error` itself where no other way helps; for lack of memory, one that names every
                way that was tried.
        """
        rung, before = self._rung, self.attempt.way
        if isinstance(error, NonFiniteError) and rung.dtype == "float16":
            ways = self._budget.ways(rung.left, self._resources, "float32")
            rung.index, _ = first_that_fits(ways, self._stage, self._resources)
            rung.dtype = "float32"
            kind = AdaptationKind.FLOAT32
        elif isinstance(error, VramBudgetExceededError):
            ways = self._budget.ways(rung.left, self._resources, rung.dtype)
            if rung.index + 1 >= len(ways):
                raise self._nothing_left(error) from error
            rung.index += 1
            kind = ways[rung.index][0]
        else:
            raise error
        rung.adaptations.append(Adaptation(kind, before, self.attempt.way, error.message))

    def _nothing_left(self, error: VramBudgetExceededError) -> VramBudgetExceededError:
        tried = [adaptation.before for adaptation in self._rung.adaptations] + [self.attempt.way]
        return VramBudgetExceededError(
            f"{error.message}; tried: {'; '.join(tried)}. Ask for a shorter song or fewer takes, or close "
            f"other programs that use {self._resources.device}",
            metadata=error.metadata,
            retry_delay_s=error.retry_delay_s,
        )
