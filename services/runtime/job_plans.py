"""How the jobs of a stage are to be done, given its models and its device."""

from __future__ import annotations

import contextlib
import time

from acestage import errors
from services.runtime.job_budget import JobBudget, Placement
from services.runtime.ladder import Ladder
from services.runtime.preload.facts import PreloadFacts
from services.runtime.stage_device import StageDevice
from services.runtime.stage_job import StageJob
from services.runtime.worker_host import WorkerHost

LOADING_RETRY_S = 5.0

SHORTAGE_S = 300.0
"""How long a stage goes by what other programs left it on a device that it had alone. Finding that out takes
a wait and the start of a worker."""


class JobPlans:
    """Plans each job once.

    Args:
        stage: for messages.
        host: has mapped the models.
        budget: knows the ways of doing a job.
        device: where the jobs run.
    """

    def __init__(self, stage: str, host: WorkerHost, budget: JobBudget, device: StageDevice) -> None:
        self._stage = stage
        self._host = host
        self._budget = budget
        self._device = device
        self._shortage: tuple[errors.DeviceShortageError, int, float] | None = None

    def facts(self) -> PreloadFacts:
        """What the preload said about the models.

        Raises:
            UnavailableError: they are still being loaded.
            AcestageError: why they cannot be loaded.
        """
        facts = self._host.facts()
        if facts is None:
            if (error := self._host.load_error()) is not None:
                raise error.with_traceback(None)  # else each job would add to it
            raise errors.UnavailableError(
                f"{self._stage}: the model is still being loaded",
                metadata={"stage": self._stage},
                retry_delay_s=LOADING_RETRY_S,
            )
        return facts

    def ladder(self, job: StageJob) -> Ladder:
        """The ways of doing `job`.

        Raises:
            UnavailableError: the models are still being loaded.
            VramBudgetExceededError: no way fits on the device.
        """
        if job.ladder is None:
            resources = self._device.resources(self.facts().models[job.model])
            job.ladder = Ladder(self._stage, self._budget, resources, job.request)
            self._descend(job.ladder)
        return job.ladder

    def remember(self, shortage: errors.DeviceShortageError, free_bytes: int) -> None:
        """Jobs that are planned from now on begin, for a while, with what fits into `free_bytes`."""
        self._shortage = shortage, free_bytes, time.monotonic() + SHORTAGE_S

    def _descend(self, ladder: Ladder) -> None:
        if self._shortage is None:
            return
        shortage, free_bytes, end = self._shortage
        if time.monotonic() >= end:
            self._shortage = None
            return
        with contextlib.suppress(errors.VramBudgetExceededError):  # the least is tried then
            while ladder.attempt.vram_bytes > free_bytes:
                ladder.step_down(shortage)

    def resting_bytes(self, placement: Placement) -> int:
        """Bytes of a worker that has its weights on the device so, and no work."""
        memories = self.facts().models[placement.model].memories
        return memories[placement.dtype].resting_bytes(placement.quantization)

    def is_placed(self, job: StageJob, placed: Placement | None) -> bool:
        """Whether what lies on the device, if anything, is what `job` needs, as it needs it."""
        if placed is None or self.facts().models[job.model].weights_of != placed.model:
            return False
        try:
            return self.ladder(job).placement == placed
        except errors.VramBudgetExceededError:
            return False  # it is told so in its turn
