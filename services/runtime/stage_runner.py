"""One job of a stage: wait for the lease, fork a worker, pass on what it says, leave the device.

The work runs in a task of its own and its events go to a queue in host memory, so that a slow reader of
the stream never holds the device longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from acestage import errors
from services.runtime.finishing import end, finish
from services.runtime.lease_client import HeldLease, LeaseClient
from services.runtime.messages import Message, to_error
from services.runtime.process_memory import ProcessMemory
from services.runtime.worker_handle import WorkerHandle
from services.runtime.worker_host import WorkerHost

log = logging.getLogger(__name__)

T = TypeVar("T")

CANCEL_GRACE_S = 5.0
"""A cancelled worker that is still in the same step after this long is killed."""

LOADING_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits in line for the device; 1 is next."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The job holds the device."""

    lease_id: str
    fencing_token: int
    device: str
    dtype: str
    lease_wait_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the finished job cost; times in seconds, memory in bytes."""

    lease_id: str
    fencing_token: int
    granted_at: datetime
    released_at: datetime
    load_s: float
    compute_s: float
    processes: tuple[ProcessMemory, ...]
    peak_device_bytes: int


StageEvent = Queued | Started | Message | Report


class StageRunner:
    """Runs jobs of one stage, each under a lease and in a worker of its own."""

    def __init__(
        self,
        stage: str,
        device: str,
        host: WorkerHost,
        leases: LeaseClient,
        *,
        progress_timeout_s: float,
    ) -> None:
        self.stage = stage
        self.device = device
        self.host = host
        self._jobs: set[asyncio.Task[None]] = set()
        self._leases = leases
        self._progress_timeout_s = progress_timeout_s

    async def run(self, request: Message) -> AsyncGenerator[StageEvent, None]:
        """The events of the job: `Queued`, `Started`, the worker's messages, and a `Report` at the end.

        Closing the iterator stops the work and waits until the device is free.
        """
        events: asyncio.Queue[StageEvent | None] = asyncio.Queue()
        task = asyncio.create_task(self._work(request, events))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await task
        finally:
            await end(task)

    @property
    def active_job_count(self) -> int:
        """Jobs that run or wait for the device."""
        return len(self._jobs)

    async def close(self) -> None:
        """Cancels all jobs, and returns once they have left the device and given back their leases."""
        jobs = set(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _work(self, request: Message, events: asyncio.Queue[StageEvent | None]) -> None:
        clock = asyncio.get_running_loop().time
        facts = self.host.facts()
        if facts is None:
            raise errors.UnavailableError(
                f"{self.stage}: the model is still being loaded",
                metadata={"stage": self.stage},
                retry_delay_s=LOADING_RETRY_S,
            )
        asked = clock()
        async with self._leases.hold(
            self.device,
            max(facts.weights_bytes, 1),
            on_waiting=lambda position: events.put_nowait(Queued(position)),
        ) as lease:
            started = Started(lease.lease_id, lease.fencing_token, self.device, facts.dtype, clock() - asked)
            events.put_nowait(started)
            report = await self._run_worker(request, events, lease)
        events.put_nowait(replace(report, released_at=datetime.now(UTC)))

    async def _run_worker(
        self, request: Message, events: asyncio.Queue[StageEvent | None], lease: HeldLease
    ) -> Report:
        worker = await self.host.fork()
        try:
            await self._attend(worker.send(request), worker, lease)
            while True:
                message = await self._next_message(worker, lease)
                if message.kind == "done":
                    return self._report(message, worker, lease)
                if message.kind == "error":
                    raise to_error(message)
                if message.kind != "placed":
                    events.put_nowait(message)
        except errors.LeaseLostError:
            worker.kill()  # the device may be granted to someone else any moment
            raise
        finally:
            await finish(_leave_device(worker, lease))

    async def _next_message(self, worker: WorkerHandle, lease: HeldLease) -> Message:
        message = await self._attend(worker.receive(), worker, lease)
        if message is None:
            code = await worker.exit_code()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise errors.WorkerCrashedError(
                f"{self.stage}: worker {worker.pid} {how} in the middle of the work",
                metadata={"stage": self.stage, "pid": str(worker.pid), "exit_code": str(code)},
                retry_delay_s=0.0,
            )
        return message

    async def _attend(self, exchange: Coroutine[Any, Any, T], worker: WorkerHandle, lease: HeldLease) -> T:
        """Awaits an exchange with the worker, while the lease holds and no longer than progress may take."""
        exchanged = asyncio.ensure_future(exchange)
        lost = asyncio.ensure_future(lease.lost.wait())
        try:
            await asyncio.wait(
                [exchanged, lost], timeout=self._progress_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            lease.raise_if_lost()
            if exchanged.done():
                return exchanged.result()
            worker.kill()
            raise errors.WorkerStalledError(
                f"{self.stage}: worker {worker.pid} did nothing for {self._progress_timeout_s:g} s",
                metadata={"stage": self.stage, "pid": str(worker.pid)},
            )
        finally:
            exchanged.cancel()
            lost.cancel()

    def _report(self, done: Message, worker: WorkerHandle, lease: HeldLease) -> Report:
        peak = int(done.fields["peak_rss_bytes"])
        worker_memory = ProcessMemory(f"{self.stage}/worker", worker.pid, peak, peak)
        return Report(
            lease_id=lease.lease_id,
            fencing_token=lease.fencing_token,
            granted_at=lease.granted_at,
            released_at=lease.granted_at,
            load_s=float(done.fields["load_s"]),
            compute_s=float(done.fields["compute_s"]),
            processes=(*self.host.memory(), worker_memory),
            peak_device_bytes=int(done.fields["peak_device_bytes"]),
        )


async def _leave_device(worker: WorkerHandle, lease: HeldLease) -> None:
    try:
        await worker.stop(grace_s=CANCEL_GRACE_S)
    except errors.DeviceQuarantinedError as error:
        # Released, the device would be granted again; lost, it is quarantined until its lock is free.
        lease.lose(error.message)
        raise
