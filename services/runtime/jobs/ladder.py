"""The ways of doing a job, from the best that fits downwards, as one after the other fails."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.errors import AcestageError, DeviceShortageError, NonFiniteError, VramBudgetExceededError
from services.runtime.jobs.job_budget import (
    Adaptation,
    AdaptationKind,
    Attempt,
    JobBudget,
    Placement,
    Resources,
    Rung,
    first_that_fits,
)
from services.runtime.workers.messages import Message


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
        self._left = request
        self._dtype = resources.dtype
        self._rungs = self._planned()
        self._index = first_that_fits(self._rungs, stage, resources)
        self._adaptations: list[Adaptation] = []

    @property
    def attempt(self) -> Attempt:
        """What is to be tried now: what is still to be done, in the present way."""
        return self._rungs[self._index].attempt

    @property
    def placement(self) -> Placement:
        """What must lie on the device for the attempt."""
        attempt = self.attempt
        return Placement(self._resources.weights_of, attempt.dtype, attempt.quantization)

    @property
    def adaptations(self) -> tuple[Adaptation, ...]:
        """What was changed so far, in order."""
        return tuple(self._adaptations)

    def sent(self, event: Message) -> bool:
        """Notes that `event` has reached the client; whether that is a part that need not be made again."""
        left = self._budget.remaining(self._left, event)
        if left is self._left:
            return False
        self._left = left
        self._rungs = self._planned()
        return True

    def step_down(self, error: AcestageError) -> None:
        """Goes on to the next way after `error`: for lack of memory, to one that needs less of it.

        A rung in the same way only keeps less. That is no adaptation, and helps where fewer bytes are free
        than planned alone: a way that needs more than was planned would do so with less kept as well.

        Raises:
            AcestageError: `error` itself where no other way helps; for lack of memory, one that names every
                way that was tried.
        """
        before = self.attempt
        if isinstance(error, NonFiniteError) and self._dtype == "float16":
            rungs = self._budget.rungs(self._left, self._resources, "float32")
            self._index = first_that_fits(rungs, self._stage, self._resources)
            self._rungs, self._dtype = rungs, "float32"
            kind = AdaptationKind.FLOAT32
        elif isinstance(error, VramBudgetExceededError):
            is_shortage = isinstance(error, DeviceShortageError)
            smaller = (
                index
                for index, rung in enumerate(self._rungs)
                if index > self._index
                and rung.attempt.vram_bytes < before.vram_bytes
                and (is_shortage or rung.attempt.way != before.way)
            )
            index = next(smaller, None)
            if index is None:
                raise self._nothing_left(error) from error
            self._index = index
            is_same = self.attempt.quantization == before.quantization
            kind = self._rungs[index].kind if is_same else AdaptationKind.INT8
        else:
            raise error
        if self.attempt.way != before.way:
            self._adaptations.append(Adaptation(kind, before.way, self.attempt.way, error.message))

    def _planned(self) -> Sequence[Rung]:
        return self._budget.rungs(self._left, self._resources, self._dtype)

    def _nothing_left(self, error: VramBudgetExceededError) -> VramBudgetExceededError:
        tried = [adaptation.before for adaptation in self._adaptations] + [self.attempt.way]
        return type(error)(
            f"{error.message}; tried: {'; '.join(tried)}. Ask for a shorter song or fewer takes, or close "
            f"other programs that use {self._resources.device}",
            metadata=error.metadata,
            retry_delay_s=error.retry_delay_s,
        )
