"""One stay on the device: a lease in hand, and the worker that uses it for one job after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from acestage import errors
from acestage.generation import ProcessMemory
from acestage.planning import MIB
from services.runtime.devices.device_memory import DeviceMemory
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.job_budget import Attempt, Placement
from services.runtime.jobs.lease_client import HeldLease
from services.runtime.jobs.stage_event import Started
from services.runtime.jobs.stage_job import StageJob
from services.runtime.processes.finishing import end, finish, first_of
from services.runtime.workers.messages import Message, to_error
from services.runtime.workers.worker_handle import WorkerHandle
from services.runtime.workers.worker_host import WorkerHost

log = logging.getLogger(__name__)

T = TypeVar("T")

CANCEL_GRACE_S = 5.0
"""A cancelled worker that is still in the same step after this long is killed."""

WAKING_S = 1.0
"""A service that was itself stopped takes so long at most to hear what happened meanwhile."""

FREE_TIMEOUT_S = 5.0
"""How long the device may take to show the bytes of the lease as free: a driver cleans up after the last
process of its own accord."""

FREE_POLL_S = 0.1

DRIVER_TIMEOUT_S = 10.0
"""A driver that does not say for so long how many bytes are free hangs."""

FREE_BYTES_SLACK = 64 * MIB
"""What the device may show less than the lease has: drivers keep some for themselves, and the reserve in
every lease is larger."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an attempt that succeeded took; times in seconds, memory in bytes."""

    started_at: datetime
    load_s: float
    compute_s: float
    worker: ProcessMemory
    peak_device_bytes: int


class Stay:
    """Uses a held lease. `leave` must be awaited before the lease is given back."""

    def __init__(
        self,
        stage: str,
        lease: HeldLease,
        host: WorkerHost,
        read_device: Callable[[], DeviceMemory],
        line_occupied: asyncio.Event,
        *,
        context_bytes: int,
        progress_timeout_s: float,
    ) -> None:
        """Prepares; nothing is on the device yet.

        Args:
            stage: for messages.
            lease: held for as long as this is used.
            host: forks the workers.
            read_device: how much of the device is free; may block for milliseconds.
            line_occupied: set while other jobs of the stage wait.
            context_bytes: what a worker takes before its first tensor is on the device.
            progress_timeout_s: a worker that says nothing for so long is replaced.
        """
        self._stage = stage
        self._lease = lease
        self._host = host
        self._read_device = read_device
        self._line_occupied = line_occupied
        self._context_bytes = context_bytes
        self._progress_timeout_s = progress_timeout_s
        self._worker: WorkerHandle | None = None
        self._placement: Placement | None = None
        self._kernels = ""
        self._job_count = 0
        self._has_waited = False

    @property
    def placement(self) -> Placement | None:
        """What lies on the device, and how; None where nothing does."""
        return None if self._worker is None else self._placement

    @property
    def kernels(self) -> str:
        """How the kernels of the last worker run: "compiled" or "eager", or empty where it has none."""
        return self._kernels

    @property
    def worker_pid(self) -> int | None:
        """The worker that has the weights on the device; None where there is none."""
        return None if self._worker is None else self._worker.pid

    async def leave_unless(self, placement: Placement) -> None:
        """Leaves the device unless a worker lives that has just this on it.

        Raises:
            DeviceQuarantinedError: the worker does not die.
        """
        if self._worker is None or not self._worker.is_alive or self._placement != placement:
            await self.leave()

    async def attempt(
        self, job: StageJob, attempt: Attempt, placement: Placement, on_event: Callable[[Message], None]
    ) -> Work:
        """Does `job` in one way; what the worker says goes to `on_event` and to the job.

        A worker that has the right weights in the right form is used again. After an error it may be gone.

        Raises:
            DeviceShortageError: fewer bytes than planned are free.
            VramBudgetExceededError: the work ran out of memory.
            LeaseLostError: the lease was lost; the worker has been killed.
            WorkerCrashedError: the worker died.
            WorkerStalledError: it made no progress.
            CancelledError: the job was cancelled.
            AcestageError: what the engine raised.
        """
        started_at = datetime.now(UTC)
        await self.leave_unless(placement)
        load_s = 0.0
        if self._worker is not None:
            job.emit(self._started(job, attempt, is_warm=True))
        else:
            load_s = await self._enter(job, attempt, placement)
        if job.cancelled.is_set():
            raise errors.CancelledError(f"{self._stage}: the work was cancelled")
        assert self._worker is not None
        worker = self._worker
        self._job_count += 1
        request = attempt.request
        fields = {
            "number": self._job_count,
            "vram_bytes": attempt.vram_bytes,
            "kind": request.kind,
            "fields": request.fields,
        }
        await self._attend(worker.send(Message("job", fields, request.tensors)), worker, job)
        feeding = asyncio.create_task(self._feed(job.feed, worker))
        try:
            while (message := await self._next_message(worker, job, feeding)).kind != "done":
                if message.kind == "kernels":
                    self._kernels = str(message.fields["kernels"])
                else:
                    on_event(message)
        finally:
            await end(feeding)
        peak = int(message.fields["peak_rss_bytes"])
        return Work(
            started_at=started_at,
            load_s=load_s,
            compute_s=float(message.fields["compute_s"]),
            worker=ProcessMemory(f"{self._stage}/worker", worker.pid, peak, peak),
            peak_device_bytes=int(message.fields["peak_device_bytes"]),
        )

    async def shortage(self, attempt: Attempt) -> errors.DeviceShortageError | None:
        """After `leave`: whether an attempt that ran out of memory had fewer bytes than were its own by plan.

        Others may have taken some since they were seen free: programs, or on a shared device a stage that
        looked at the same moment.

        Raises:
            LeaseLostError: the lease was lost.
            UnavailableError: the driver does not answer.
        """
        try:
            await self._until_free(attempt)
        except errors.DeviceShortageError as error:
            return error
        return None

    async def rest(self) -> bool:
        """Waits, with the weights on the device, for work; False where it is time to leave.

        Raises:
            WorkerCrashedError: the worker died of its own accord.
        """
        assert self._worker is not None
        await first_of(
            self._line_occupied.wait(),
            self._lease.revoked.wait(),
            self._lease.lost.wait(),
            self._worker.ended(),
        )
        if self._worker.has_died:
            raise await self._crashed(self._worker, "while it had no work")
        is_held = not self._lease.lost.is_set() and not self._lease.revoked.is_set()
        return is_held and self._worker.is_alive

    async def leave(self) -> None:
        """Returns once nothing of ours is on the device, or the lease is lost because something still is.

        Raises:
            DeviceQuarantinedError: the worker does not die.
        """
        worker, self._worker = self._worker, None
        if worker is not None:
            self._has_waited = False  # what it had on the device may show as free a little later
            if self._lease.lost.is_set():
                worker.kill()  # there are two seconds before the device may be somebody else's
            await finish(self._end(worker))

    async def _enter(self, job: StageJob, attempt: Attempt, placement: Placement) -> float:
        """Wakes a worker and moves the weights; returns the seconds that took.

        A worker that cannot take the device, for whatever reason, is of no use to other jobs, and ends.
        """
        clock = asyncio.get_running_loop().time
        start = clock()
        await self._until_free(attempt)
        job.emit(self._started(job, attempt, is_warm=False))
        worker = await self._host.fork()
        self._worker = worker
        self._placement = placement
        self._job_count = 0
        fields = {
            "fencing_token": self._lease.fencing_token,
            "is_exclusive": self._lease.is_exclusive,
            "vram_bytes": attempt.vram_bytes,
            "context_bytes": self._context_bytes,
            "model": placement.model,
            "dtype": placement.dtype,
            "quantization": placement.quantization,
        }
        try:
            await self._attend(worker.send(Message("hold", fields)), worker, job)
            placed = await self._next_message(worker, job)
        except errors.AcestageError:
            await self.leave()
            raise
        self._kernels = str(placed.fields["kernels"])
        return clock() - start

    async def _until_free(self, attempt: Attempt) -> None:
        """The third wall, after the lease and the lock: does the device itself show the bytes as free?"""
        clock = asyncio.get_running_loop().time
        deadline = clock() + (0.0 if self._has_waited else FREE_TIMEOUT_S)
        self._has_waited = True
        while True:
            memory = await self._device_memory()
            self._lease.raise_if_lost()
            if memory.free_bytes + FREE_BYTES_SLACK >= attempt.vram_bytes:
                return
            if clock() >= deadline:
                raise errors.DeviceShortageError(
                    f"{self._stage} needs {attempt.vram_bytes / MIB:.0f} MiB on {memory.device}, but only "
                    f"{memory.free_bytes / MIB:.0f} of {memory.total_bytes / MIB:.0f} MiB are free: other "
                    "programs have the rest",
                    missing_bytes=attempt.vram_bytes - memory.free_bytes,
                    metadata={"stage": self._stage, "device": memory.device},
                    retry_delay_s=FREE_TIMEOUT_S,
                )
            await asyncio.sleep(FREE_POLL_S)

    async def _device_memory(self) -> DeviceMemory:
        try:
            async with asyncio.timeout(DRIVER_TIMEOUT_S):
                return await asyncio.to_thread(self._read_device)
        except TimeoutError as error:
            raise errors.UnavailableError(
                f"{self._stage}: the driver of {self._lease.device} said nothing for {DRIVER_TIMEOUT_S:g} s",
                metadata={"stage": self._stage, "device": self._lease.device},
            ) from error

    async def _next_message(
        self, worker: WorkerHandle, job: StageJob, feeding: asyncio.Task[None] | None = None
    ) -> Message:
        receiving = worker.receive() if feeding is None else _receive(worker, feeding)
        message = await self._attend(receiving, worker, job)
        if message is None:
            raise await self._crashed(worker, "in the middle of the work")
        if message.kind == "error":
            raise to_error(message)
        return message

    async def _crashed(self, worker: WorkerHandle, when: str) -> errors.WorkerCrashedError:
        code = await worker.exit_code()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return errors.WorkerCrashedError(
            f"{self._stage}: worker {worker.pid} {how} {when}",
            metadata={"stage": self._stage, "pid": str(worker.pid), "exit_code": str(code)},
            retry_delay_s=0.0,
        )

    async def _attend(self, exchange: Coroutine[Any, Any, T], worker: WorkerHandle, job: StageJob) -> T:
        """Awaits an exchange with the worker while the lease holds and there is progress."""
        exchanged = asyncio.ensure_future(exchange)
        lost = asyncio.ensure_future(self._lease.lost.wait())
        cancelled = asyncio.ensure_future(job.cancelled.wait())
        try:
            news = [exchanged, lost, cancelled]
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait(news, timeout=self._progress_timeout_s, return_when=first)
            # Where this service was itself stopped, the time is up before it has heard what is there.
            await asyncio.wait(news, timeout=WAKING_S, return_when=first)
            if not exchanged.done() and cancelled.done() and not lost.done():
                worker.cancel(self._job_count)
                await asyncio.wait([exchanged, lost], timeout=CANCEL_GRACE_S, return_when=first)
            if self._lease.lost.is_set():
                worker.kill()  # the device may be granted to someone else any moment
                self._lease.raise_if_lost()
            if exchanged.done():
                return exchanged.result()
            worker.kill()
            if cancelled.done():
                raise errors.CancelledError(f"{self._stage}: the work was cancelled")
            raise errors.WorkerStalledError(
                f"{self._stage}: worker {worker.pid} did nothing for {self._progress_timeout_s:g} s",
                metadata={"stage": self._stage, "pid": str(worker.pid)},
            )
        finally:
            exchanged.cancel()
            lost.cancel()
            cancelled.cancel()

    async def _feed(self, feed: Feed | None, worker: WorkerHandle) -> None:
        """Tells `worker` what comes of the present job, and once that others wait; ends only without a feed.

        Others wait where the lease is revoked, or in line.
        """
        if feed is None:
            return
        number = {"number": self._job_count}

        async def hurry() -> None:
            await first_of(self._lease.revoked.wait(), self._line_occupied.wait())
            await worker.send(Message("hurry", number))

        async def pass_on() -> None:
            async for message in feed.messages():
                await worker.send(Message("later", number, message.tensors))

        tasks = [asyncio.create_task(hurry()), asyncio.create_task(pass_on())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                await end(task)

    def _started(self, job: StageJob, attempt: Attempt, *, is_warm: bool) -> Started:
        return Started(
            lease_id=self._lease.lease_id,
            fencing_token=self._lease.fencing_token,
            device=self._lease.device,
            dtype=attempt.dtype,
            quantization=attempt.quantization,
            vram_bytes=attempt.vram_bytes,
            was_warm=is_warm,
            lease_wait_s=job.waited_s(),
        )

    async def _end(self, worker: WorkerHandle) -> None:
        try:
            await worker.stop(grace_s=CANCEL_GRACE_S)
        except errors.DeviceQuarantinedError as error:
            # Released, the device would be granted again; lost, it is quarantined until its lock is free.
            self._lease.lose(error.message)
            raise


async def _receive(worker: WorkerHandle, feeding: asyncio.Task[None]) -> Message | None:
    """The next message of `worker`, unless `feeding` fails: then its error, and the worker is killed."""
    receiving = asyncio.ensure_future(worker.receive())
    try:
        await asyncio.wait([receiving, feeding], return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and (error := feeding.exception()) is not None:
            worker.kill()  # it is in the middle of a job that gets no more of its request
            raise error
        return await receiving
    finally:
        receiving.cancel()
