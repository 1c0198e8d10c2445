"""The jobs of a stage: one line of them, done one after the other for as long as the device may be kept.

The first job in line takes the lease. The jobs behind it run under the same lease, since waking a worker and
moving its weights costs more than most jobs do, until others have waited for too long. For the same reason
jobs that find their weights on the device may pass others, for a while. Without work the weights stay on the
device until somebody else wants it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress

from acestage import errors
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.job_budget import JobBudget, Placement
from services.runtime.jobs.job_line import JobLine
from services.runtime.jobs.job_plans import JobPlans
from services.runtime.jobs.lease_client import HeldLease, LeaseClient
from services.runtime.jobs.stage_device import StageDevice
from services.runtime.jobs.stage_event import StageEvent
from services.runtime.jobs.stage_job import StageJob
from services.runtime.jobs.stay import Stay
from services.runtime.jobs.visit import Visit, Workplace, defect, fail_in_line
from services.runtime.processes.finishing import end, finish
from services.runtime.workers.messages import Message
from services.runtime.workers.worker_host import WorkerHost

log = logging.getLogger(__name__)

LOADING_TIMEOUT_S = 120.0
"""For how long jobs in line wait for a preload that is started again."""


class WorkerState(enum.Enum):
    """What the worker process of a stage does."""

    ASLEEP = "asleep"
    BUSY = "busy"
    WARM = "warm"


class StageRunner:
    """Runs the jobs of one stage. Use with `async with`: leaving ends all jobs and leaves the device."""

    def __init__(
        self,
        stage: str,
        host: WorkerHost,
        leases: LeaseClient,
        budget: JobBudget,
        device: StageDevice,
        *,
        progress_timeout_s: float,
        max_hold_s: float,
        stays_warm: bool = True,
    ) -> None:
        """Prepares; nothing runs before the context is entered.

        Args:
            stage: "text_encoder", "dit" or "vae".
            host: forks the workers.
            leases: to the ledger.
            budget: what a job needs.
            device: where the jobs run.
            progress_timeout_s: a worker that says nothing for so long is replaced.
            max_hold_s: as in `Workplace`.
            stays_warm: as in `Workplace`.
        """
        self.stage = stage
        self.host = host
        self.device = device
        self.plans = JobPlans(stage, host, budget, device)
        self._leases = leases
        self._progress_timeout_s = progress_timeout_s
        self._line = JobLine(stage)
        self._workplace = Workplace(stage, self._line, self.plans, host, device, max_hold_s, stays_warm)
        self._visiting: Visit | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StageRunner:
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._serving is not None:
            await end(self._serving)
        for job in self._line:
            self._line.leave(job)
            job.end(errors.CancelledError(f"{self.stage}: the service stops"))

    async def serve(self) -> None:
        """Returns only if the runner fails: a service without it would be of no use."""
        assert self._serving is not None
        await asyncio.shield(self._serving)

    async def run(self, request: Message, feed: Feed | None = None) -> AsyncGenerator[StageEvent, None]:
        """The events of the job: `Queued`, `Started`, the worker's messages, and a `Report` at the end.

        Closing the iterator stops the work and waits until the worker has let go of the job. `feed` brings
        what comes of the request while it is worked on.

        Raises:
            UnavailableError: the model is still being loaded.
            QueueFullError: too many jobs wait, or too many bytes.
            VramBudgetExceededError: no way of doing the job fits on the device.
        """
        self.plans.facts()  # raises while there are none
        job = StageJob(request, feed)
        self._line.join(job)
        try:
            while (event := await job.next_event()) is not None:
                yield event
        finally:
            await finish(self._dismiss(job))

    @property
    def active_job_count(self) -> int:
        """Jobs that run or wait for the device."""
        return len(self._line) + self._is_busy

    @property
    def worker_state(self) -> WorkerState:
        if self._is_busy:
            return WorkerState.BUSY
        return WorkerState.ASLEEP if self.worker_pid is None else WorkerState.WARM

    @property
    def placed_quantization(self) -> str:
        """How the weights lie on the device: "none" or "int8"; empty where they do not."""
        return "" if self._placement is None else self._placement.quantization

    @property
    def placed_model(self) -> str:
        """Whose weights lie on the device: the first model that has them; empty where none do."""
        return "" if self._placement is None else self._placement.model

    @property
    def worker_pid(self) -> int | None:
        """The worker process; None while there is none."""
        return None if self._visiting is None else self._visiting.stay.worker_pid

    @property
    def _placement(self) -> Placement | None:
        return None if self._visiting is None else self._visiting.stay.placement

    @property
    def _is_busy(self) -> bool:
        return self._visiting is not None and self._visiting.current is not None

    async def _dismiss(self, job: StageJob) -> None:
        job.cancelled.set()
        if self._line.leave(job):
            job.end()
        await job.ended()

    async def _serve(self) -> None:
        while True:
            await self._line.occupied.wait()
            try:
                await self._visit()
            except errors.AcestageError as error:
                log.warning("%s", error, extra={"stage": self.stage})
            except Exception:  # a defect: it costs one job, and not the stage
                log.exception("a visit to the device failed", extra={"stage": self.stage})

    async def _until_loaded(self) -> None:
        """Waits for a preload that is started again; raises what stands in its way.

        No job joins the line meanwhile: once this was in vain, all have waited for so long, and end.
        """
        if self.host.facts() is not None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LOADING_TIMEOUT_S):
                await self.host.ready()
                return
        try:
            self.plans.facts()
        except errors.AcestageError as error:
            for job in self._line:
                fail_in_line(self._line, job, error)
            raise

    async def _visit(self) -> None:
        """Takes a lease for the first job in line, does what waits, and gives it back."""
        async with AsyncExitStack() as stack:
            self._visiting = visit = await self._arrive(stack)
            if visit is None:
                return
            try:
                await visit.work()
            finally:
                try:
                    await visit.stay.leave()
                finally:
                    self._visiting = None

    async def _arrive(self, stack: AsyncExitStack) -> Visit | None:
        """A visit with the lease for the first job in line; None where nobody waits any more.

        An error ends that job too.
        """
        job = self._line.first
        try:
            await self._until_loaded()
            if job not in self._line:
                return None
            context_bytes = self.plans.facts().models[job.model].memory.context_bytes
            lease = await self._acquire(stack, job.wanted_bytes(self.plans.ladder(job).attempt))
        except errors.AcestageError as error:
            fail_in_line(self._line, job, error)
            raise
        except Exception:
            fail_in_line(self._line, job, defect(self.stage))
            raise
        if lease is None:
            return None
        stay = Stay(
            self.stage,
            lease,
            self.host,
            self.device.read_memory,
            self._line.occupied,
            context_bytes=context_bytes,
            progress_timeout_s=self._progress_timeout_s,
        )
        return Visit(self._workplace, lease, stay)

    async def _acquire(self, stack: AsyncExitStack, vram_bytes: int) -> HeldLease | None:
        """The lease, given back as `stack` is left; None where nobody waits for it any more."""

        hold = self._leases.hold(
            self.device.name,
            vram_bytes,
            on_waiting=lambda position: self._line.stand_behind(position - 1),
            device_bytes=self.device.total_bytes,
        )
        acquiring = asyncio.ensure_future(stack.enter_async_context(hold))
        emptied = asyncio.ensure_future(self._line.emptied.wait())
        try:
            await asyncio.wait([acquiring, emptied], return_when=asyncio.FIRST_COMPLETED)
        finally:
            emptied.cancel()
            if not acquiring.done():
                await end(acquiring)
        self._line.stand_behind(0)
        return None if acquiring.cancelled() else acquiring.result()
