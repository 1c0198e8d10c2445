"""One visit of a stage to its device: a lease in hand, one job after the other until it is time to leave."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from acestage import errors
from acestage.planning import MIB
from services.runtime.jobs.job_budget import Adaptation, Attempt
from services.runtime.jobs.job_line import JobLine
from services.runtime.jobs.job_plans import JobPlans
from services.runtime.jobs.ladder import Ladder
from services.runtime.jobs.lease_client import HeldLease
from services.runtime.jobs.lessons import LESSON_S
from services.runtime.jobs.stage_device import StageDevice
from services.runtime.jobs.stage_event import Report
from services.runtime.jobs.stage_job import StageJob
from services.runtime.jobs.stay import FREE_BYTES_SLACK, Stay, Work
from services.runtime.workers.messages import Message
from services.runtime.workers.worker_host import WorkerHost

log = logging.getLogger(__name__)

_WORKER_IS_GONE = (errors.VramBudgetExceededError, errors.UnavailableError, errors.AbortedError)
"""After any other error a worker can go on."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all visits of a stage have in common.

    Attributes:
        stage: "text_encoder", "dit" or "vae".
        line: the jobs that wait.
        plans: how they are to be done.
        host: forks the workers.
        device: where they run.
        max_hold_s: while others wait, no further job is begun after this long; and no job is passed by jobs
            of another model after this long.
        stays_warm: whether to keep the weights on the device without work.
    """

    stage: str
    line: JobLine
    plans: JobPlans
    host: WorkerHost
    device: StageDevice
    max_hold_s: float
    stays_warm: bool


class Visit:
    """Does what waits in line. `stay` must be left before the lease is given back.

    Args:
        workplace: what it has in common with other visits.
        lease: held for as long as the visit goes on.
        stay: uses the device under that lease.

    Attributes:
        stay: the worker of the visit, and its weights.
        current: the job that is being done; None between two.
    """

    def __init__(self, workplace: Workplace, lease: HeldLease, stay: Stay) -> None:
        self.stay = stay
        self.current: StageJob | None = None
        self._workplace = workplace
        self._stage, self._line, self._plans = workplace.stage, workplace.line, workplace.plans
        self._lease = lease

    async def work(self) -> None:
        """Does jobs under the lease until it is time to leave."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        turn_count = 0
        while not self._lease.lost.is_set() and self._workplace.host.facts() is not None:
            if not self._line:
                if not self._workplace.stays_warm or self.stay.placement is None:
                    return
                self._lease.report(is_idle=True, vram_bytes=self._plans.resting_bytes(self.stay.placement))
                if not await self.stay.rest():
                    return
                continue
            if turn_count and self._lease.revoked.is_set() and clock() - begun >= self._workplace.max_hold_s:
                return
            if not await self._take_turn():
                return
            turn_count += 1

    async def _take_turn(self) -> bool:
        """Does the next job in line; False where that needs another lease.

        A function of its own, so that no variable keeps the request while the worker rests.
        """
        job = self._line.next(
            lambda one: self._plans.is_placed(one, self.stay.placement), self._workplace.max_hold_s
        )
        try:
            ladder = self._plans.ladder(job)
        except errors.AcestageError as error:
            fail_in_line(self._line, job, error)
            return True
        await self.stay.leave_unless(ladder.placement)  # first, for then the lease may need fewer bytes
        if not await _claim_bytes(self._lease, job.wanted_bytes(ladder.attempt)):
            return False  # others need them: wait in line for all of it
        # Unless it was cancelled meanwhile.
        return await self._do(job, ladder) if self._line.leave(job) else True

    async def _do(self, job: StageJob, ladder: Ladder) -> bool:
        """Does one job, however it ends; False where it waits again, for a lease of other bytes."""
        self.current = job
        try:
            is_done = await self._climb_down(job, ladder)
        except errors.AcestageError as error:
            job.end(error)
            if isinstance(error, errors.UnavailableError):  # a worker that died or hung, or the driver
                fields = {"stage": self._stage, "pid": error.metadata.get("pid")}
                log.warning("%s", error, extra=fields)
            if isinstance(error, _WORKER_IS_GONE):
                await self.stay.leave()
        except asyncio.CancelledError:
            job.end(errors.CancelledError(f"{self._stage}: the service stops"))
            raise
        except Exception:  # a defect: it costs this job, and not the stage
            log.exception("a job failed", extra={"stage": self._stage})
            job.end(defect(self._stage))
            await self.stay.leave()
        else:
            if not is_done and not job.cancelled.is_set():
                self._line.put_back(job)
                return False
            job.end()
        finally:
            self.current = None
        return True

    async def _climb_down(self, job: StageJob, ladder: Ladder) -> bool:
        """Tries one way after the other until one works; False where another lease is needed for that."""

        def on_event(event: Message) -> None:
            job.emit(event)
            if ladder.sent(event):
                job.kernels.add(self.stay.kernels)

        while True:
            attempt = ladder.attempt
            try:
                work = await self.stay.attempt(job, attempt, ladder.placement, on_event)
            except (errors.VramBudgetExceededError, errors.NonFiniteError) as failure:
                await self.stay.leave()
                error: errors.AcestageError = failure
                if type(failure) is errors.VramBudgetExceededError:
                    error = await self.stay.shortage(attempt) or failure
                if isinstance(error, errors.DeviceShortageError) and self._can_get_more(error, job):
                    return False
                ladder.step_down(error)
                now = f"{ladder.attempt.way}, {ladder.attempt.vram_bytes / MIB:.0f} MiB"
                log.warning("%s; now: %s", error, now, extra={"stage": self._stage})
                self._learn(error, attempt, ladder.placement.model)
                if not await _claim_bytes(self._lease, job.wanted_bytes(ladder.attempt)):
                    return False
                continue
            if attempt.dtype == "float16":
                self._plans.lessons.no_overflow(ladder.placement.model, attempt.request.kind)
            job.kernels.add(self.stay.kernels)
            kernels = job.kernels.pop() if len(job.kernels) == 1 else "mixed"
            job.emit(await self._report(work, kernels, attempt, ladder.adaptations))
            return True

    def _can_get_more(self, shortage: errors.DeviceShortageError, job: StageJob) -> bool:
        """Whether a lease of more bytes may help: others of ours can leave, while other programs stay.

        On an exclusive device there are no others of ours.
        """
        shortage_bytes = job.shortage_bytes + shortage.missing_bytes
        assert job.ladder is not None
        if (
            self._lease.is_exclusive
            or job.ladder.attempt.vram_bytes + shortage_bytes > self._workplace.device.total_bytes
        ):
            return False
        log.warning("%s; asking for a lease of more", shortage, extra={"stage": self._stage})
        job.shortage_bytes = shortage_bytes
        return True

    def _learn(self, error: errors.AcestageError, attempt: Attempt, model: str) -> None:
        """Spares later jobs what was just tried, those that wait included."""
        request, lessons, is_learnt = attempt.request, self._plans.lessons, False
        if isinstance(error, errors.DeviceShortageError) and self._lease.is_exclusive:
            lessons.shortage(error, attempt.vram_bytes - error.missing_bytes + FREE_BYTES_SLACK)
            is_learnt = True
        elif isinstance(error, errors.NonFiniteError) and not request.fields.get("adapters"):
            is_learnt = lessons.overflow(model, request.kind, error)  # else adapters may be what overflows
        if not is_learnt:
            return
        log.warning("the next jobs begin so, for %.0f s", LESSON_S, extra={"stage": self._stage})
        for waiting in self._line:
            waiting.plan_again()

    async def _report(
        self, work: Work, kernels: str, attempt: Attempt, adaptations: tuple[Adaptation, ...]
    ) -> Report:
        processes = await asyncio.to_thread(self._workplace.host.memory)
        return Report(
            lease_id=self._lease.lease_id,
            fencing_token=self._lease.fencing_token,
            started_at=work.started_at,
            ended_at=datetime.now(UTC),
            load_s=work.load_s,
            compute_s=work.compute_s,
            kernels=kernels,
            processes=(*processes, work.worker),
            peak_device_bytes=work.peak_device_bytes,
            planned_bytes=attempt.vram_bytes,
            adaptations=adaptations,
        )


def defect(stage: str) -> errors.InternalError:
    """What a job ends with that met a defect."""
    return errors.InternalError(f"{stage}: the work ended early, see its log", metadata={"stage": stage})


def fail_in_line(line: JobLine, job: StageJob, error: errors.AcestageError) -> None:
    """Ends what cannot get the device: `job`, or everybody in line where the ledger is out of reach."""
    for one in line if isinstance(error, errors.ServiceUnreachableError) else (job,):
        if line.leave(one):
            one.end(error)


async def _claim_bytes(lease: HeldLease, vram_bytes: int) -> bool:
    """Tells the ledger that there is work; False where it cannot give the lease so many bytes now."""
    if vram_bytes > min(lease.vram_bytes, lease.wanted_bytes):
        return await lease.grow(vram_bytes)
    lease.report(is_idle=False, vram_bytes=vram_bytes)
    return True
