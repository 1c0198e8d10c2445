"""How the jobs of a stage are to be done, given its models and its device."""

from __future__ import annotations

from acestage import errors
from services.runtime.jobs.job_budget import JobBudget, Placement
from services.runtime.jobs.ladder import Ladder
from services.runtime.jobs.lessons import Lessons
from services.runtime.jobs.stage_device import StageDevice
from services.runtime.jobs.stage_job import StageJob
from services.runtime.preload.facts import PreloadFacts
from services.runtime.workers.worker_host import WorkerHost

LOADING_RETRY_S = 5.0


class JobPlans:
    """Plans each job once.

    Args:
        stage: for messages.
        host: has mapped the models.
        budget: knows the ways of doing a job.
        device: where the jobs run.

    Attributes:
        lessons: what jobs found out, for those that are planned later.
    """

    def __init__(self, stage: str, host: WorkerHost, budget: JobBudget, device: StageDevice) -> None:
        self._stage = stage
        self._host = host
        self._budget = budget
        self._device = device
        self.lessons = Lessons()

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
            job.ladder = self.lessons.apply(lambda: Ladder(self._stage, self._budget, resources, job.request))
        return job.ladder

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
