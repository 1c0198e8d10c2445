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
from datetime import UTC, datetime

from acestage import errors
from services.runtime.feed import Feed
from services.runtime.finishing import end, finish
from services.runtime.job_budget import Adaptation, Attempt, JobBudget, Placement, Resources
from services.runtime.job_line import JobLine
from services.runtime.ladder import Ladder
from services.runtime.lease_client import HeldLease, LeaseClient
from services.runtime.messages import Message
from services.runtime.preload.facts import PreloadFacts
from services.runtime.stage_device import StageDevice
from services.runtime.stage_event import Report, StageEvent
from services.runtime.stage_job import StageJob
from services.runtime.stay import Stay, Work
from services.runtime.worker_host import WorkerHost

log = logging.getLogger(__name__)

LOADING_RETRY_S = 5.0

LOADING_TIMEOUT_S = 120.0
"""For how long jobs in line wait for a preload that is started again."""

_WORKER_IS_GONE = (errors.VramBudgetExceededError, errors.UnavailableError, errors.AbortedError)
"""After any other error a worker can go on."""


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
            stage: its name.
            host: forks the workers.
            leases: to the ledger.
            budget: what a job needs.
            device: where the jobs run.
            progress_timeout_s: a worker that says nothing for so long is replaced.
            max_hold_s: while others wait, no further job is begun after this long; and no job is passed by
                jobs of another model after this long.
            stays_warm: whether to keep the weights on the device without work.
        """
        self.stage = stage
        self.host = host
        self.device = device
        self._leases = leases
        self._budget = budget
        self._progress_timeout_s = progress_timeout_s
        self._max_hold_s = max_hold_s
        self._stays_warm = stays_warm
        self._line = JobLine(stage)
        self._current: StageJob | None = None
        self._stay: Stay | None = None
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
        self.facts()  # raises while there are none
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
        return len(self._line) + (self._current is not None)

    @property
    def worker_state(self) -> WorkerState:
        if self._current is not None:
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
        return None if self._stay is None else self._stay.worker_pid

    @property
    def _placement(self) -> Placement | None:
        return None if self._stay is None else self._stay.placement

    def facts(self) -> PreloadFacts:
        """What the preload said about the models.

        Raises:
            UnavailableError: they are still being loaded.
        """
        facts = self.host.facts()
        if facts is None:
            raise errors.UnavailableError(
                f"{self.stage}: the model is still being loaded",
                metadata={"stage": self.stage},
                retry_delay_s=LOADING_RETRY_S,
            )
        return facts

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
        """Waits for a preload that is started again; raises what stands in its way."""
        if self.host.facts() is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.host.ready(), LOADING_TIMEOUT_S)

    def _defect(self) -> errors.InternalError:
        return errors.InternalError(
            f"{self.stage}: the work ended early, see its log", metadata={"stage": self.stage}
        )

    def _fail_in_line(self, job: StageJob, error: errors.AcestageError) -> None:
        """Ends what cannot get the device: `job`, or everybody in line where the ledger is out of reach."""
        for one in self._line if isinstance(error, errors.ServiceUnreachableError) else (job,):
            if self._line.leave(one):
                one.end(error)

    async def _visit(self) -> None:
        """Takes a lease for the first job in line, does what waits, and gives it back."""
        async with AsyncExitStack() as stack:
            arrived = await self._arrive(stack)
            if arrived is None:
                return
            lease, stay = arrived
            self._stay = stay
            try:
                await self._work(lease, stay)
            finally:
                try:
                    await stay.leave()
                finally:
                    self._stay = None

    async def _arrive(self, stack: AsyncExitStack) -> tuple[HeldLease, Stay] | None:
        """The lease for the first job in line, and a stay under it; None where nobody waits any more.

        An error ends that job too.
        """
        job = self._line.first
        try:
            await self._until_loaded()
            if job not in self._line:
                return None
            context_bytes = self.facts().models[job.model].memory.context_bytes
            lease = await self._acquire(stack, job.wanted_bytes(self._ladder(job).attempt))
        except errors.AcestageError as error:
            self._fail_in_line(job, error)
            raise
        except Exception:
            self._fail_in_line(job, self._defect())
            raise
        if lease is None:
            return None
        return lease, Stay(
            self.stage,
            lease,
            self.host,
            self.device.read_memory,
            self._line.occupied,
            context_bytes=context_bytes,
            progress_timeout_s=self._progress_timeout_s,
        )

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

    async def _work(self, lease: HeldLease, stay: Stay) -> None:
        """Does jobs under the lease until it is time to leave."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        turn_count = 0
        while not lease.lost.is_set() and self.host.facts() is not None:
            if not self._line:
                if not self._stays_warm or stay.placement is None:
                    return
                lease.report(is_idle=True, vram_bytes=self._resting_bytes(stay.placement))
                if not await stay.rest():
                    return
                continue
            if turn_count and lease.revoked.is_set() and clock() - begun >= self._max_hold_s:
                return
            if not await self._take_turn(lease, stay):
                return
            turn_count += 1

    async def _take_turn(self, lease: HeldLease, stay: Stay) -> bool:
        """Does the next job in line; False where that needs another lease.

        A function of its own, so that no variable keeps the request while the worker rests.
        """
        job = self._line.next(lambda one: self._is_placed(one, stay), self._max_hold_s)
        try:
            ladder = self._ladder(job)
        except errors.AcestageError as error:
            self._fail_in_line(job, error)
            return True
        await stay.leave_unless(ladder.placement)  # first, for then the lease may need fewer bytes
        if not await _claim_bytes(lease, job.wanted_bytes(ladder.attempt)):
            return False  # others need them: wait in line for all of it
        # Unless it was cancelled meanwhile.
        return await self._do(job, ladder, lease, stay) if self._line.leave(job) else True

    def _is_placed(self, job: StageJob, stay: Stay) -> bool:
        """Whether what `job` needs lies on the device, as it needs it."""
        placed = stay.placement
        if placed is None or self.facts().models[job.model].weights_of != placed.model:
            return False
        try:
            return self._ladder(job).placement == placed
        except errors.VramBudgetExceededError:
            return False  # it is told so in its turn

    async def _do(self, job: StageJob, ladder: Ladder, lease: HeldLease, stay: Stay) -> bool:
        """Does one job, however it ends; False where it waits again, for a lease of other bytes."""
        self._current = job
        try:
            is_done = await self._climb_down(job, ladder, lease, stay)
        except errors.AcestageError as error:
            job.end(error)
            if isinstance(error, _WORKER_IS_GONE):
                await stay.leave()
        except asyncio.CancelledError:
            job.end(errors.CancelledError(f"{self.stage}: the service stops"))
            raise
        except Exception:  # a defect: it costs this job, and not the stage
            log.exception("a job failed", extra={"stage": self.stage})
            job.end(self._defect())
            await stay.leave()
        else:
            if not is_done and not job.cancelled.is_set():
                self._line.put_back(job)
                return False
            job.end()
        finally:
            self._current = None
        return True

    async def _climb_down(self, job: StageJob, ladder: Ladder, lease: HeldLease, stay: Stay) -> bool:
        """Tries one way after the other until one works; False where another lease is needed for that."""

        def on_event(event: Message) -> None:
            job.emit(event)
            ladder.sent(event)

        while True:
            attempt = ladder.attempt
            try:
                work = await stay.attempt(job, attempt, ladder.placement, on_event)
            except (errors.VramBudgetExceededError, errors.NonFiniteError) as error:
                await stay.leave()
                if isinstance(error, errors.DeviceShortageError) and self._can_get_more(error, job, lease):
                    return False
                ladder.step_down(error)
                log.warning("%s; now: %s", error, ladder.attempt.way, extra={"stage": self.stage})
                if not await _claim_bytes(lease, job.wanted_bytes(ladder.attempt)):
                    return False
                continue
            job.emit(await self._report(work, attempt, lease, ladder.adaptations))
            return True

    def _can_get_more(self, shortage: errors.DeviceShortageError, job: StageJob, lease: HeldLease) -> bool:
        """Whether a lease of more bytes may help: others of ours can leave, while other programs stay.

        On an exclusive device there are no others of ours.
        """
        shortage_bytes = job.shortage_bytes + shortage.missing_bytes
        assert job.ladder is not None
        if lease.is_exclusive or job.ladder.attempt.vram_bytes + shortage_bytes > self.device.total_bytes:
            return False
        log.warning("%s; asking for a lease of more", shortage, extra={"stage": self.stage})
        job.shortage_bytes = shortage_bytes
        return True

    async def _report(
        self, work: Work, attempt: Attempt, lease: HeldLease, adaptations: tuple[Adaptation, ...]
    ) -> Report:
        processes = await asyncio.to_thread(self.host.memory)
        return Report(
            lease_id=lease.lease_id,
            fencing_token=lease.fencing_token,
            started_at=work.started_at,
            ended_at=datetime.now(UTC),
            load_s=work.load_s,
            compute_s=work.compute_s,
            processes=(*processes, work.worker),
            peak_device_bytes=work.peak_device_bytes,
            planned_bytes=attempt.vram_bytes,
            adaptations=adaptations,
        )

    def _ladder(self, job: StageJob) -> Ladder:
        if job.ladder is None:
            job.ladder = Ladder(self.stage, self._budget, self._resources(job.model), job.request)
        return job.ladder

    def _resting_bytes(self, placement: Placement) -> int:
        memories = self.facts().models[placement.model].memories
        return memories[placement.dtype].resting_bytes(placement.quantization)

    def _resources(self, model: str) -> Resources:
        return self.device.resources(self.facts().models[model])


async def _claim_bytes(lease: HeldLease, vram_bytes: int) -> bool:
    """Tells the ledger that there is work; False where it cannot give the lease so many bytes now."""
    if vram_bytes > min(lease.vram_bytes, lease.wanted_bytes):
        return await lease.grow(vram_bytes)
    lease.report(is_idle=False, vram_bytes=vram_bytes)
    return True
