"""One job of a stage, with a fake host and a fake ledger: what happens when either misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from acestage import errors
from acestage.protos.lease.v1 import lease_pb2
from services.runtime import stage_runner
from services.runtime.lease_client import HeldLease, LeaseClient
from services.runtime.messages import Message, error_message
from services.runtime.preload.client import PreloadFacts
from services.runtime.stage_runner import Queued, Report, StageEvent, StageRunner, Started
from services.runtime.worker_host import WorkerHost

DONE = Message("done", {"load_s": 0.1, "compute_s": 0.2, "peak_rss_bytes": 5, "peak_device_bytes": 0})


class FakeWorker:
    """Says what it is told to say, then nothing more."""

    pid = 4711

    def __init__(self, messages: list[Message | None]) -> None:
        self.messages = messages
        self.sent: list[str] = []
        self.is_killed = False
        self.is_stopped = False
        self.dies = True
        self.reads = True

    async def send(self, message: Message) -> None:
        if not self.reads:
            await asyncio.Event().wait()
        self.sent.append(message.kind)

    async def receive(self) -> Message | None:
        if self.messages:
            return self.messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def exit_code(self) -> int:
        return -9

    def kill(self) -> None:
        self.is_killed = True

    async def stop(self, *, grace_s: float) -> None:
        await asyncio.sleep(0)
        if not self.dies:
            raise errors.DeviceQuarantinedError("worker 4711 did not die")
        self.is_stopped = True


class FakeHost:
    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker
        self.is_ready = True

    def facts(self) -> PreloadFacts | None:
        return PreloadFacts("float32", 1000) if self.is_ready else None

    async def fork(self) -> FakeWorker:
        return self._worker

    def memory(self) -> list[Any]:
        return []


class FakeLeases:
    """Grants at once, and records how the lease was left."""

    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker
        self.lease: HeldLease | None = None
        self.left: str | None = None
        self.worker_was_stopped = False

    @contextlib.asynccontextmanager
    async def hold(
        self, device: str, vram_bytes: int, *, on_waiting: Callable[[int], None]
    ) -> AsyncIterator[HeldLease]:
        on_waiting(1)
        granted = lease_pb2.Lease(lease_id="1-1", device=device, fencing_token=7)
        granted.grant_time.FromDatetime(datetime.now(UTC))
        self.lease = HeldLease(granted)
        try:
            yield self.lease
        finally:
            self.left = "lost" if self.lease.lost.is_set() else "released"
            self.worker_was_stopped = self._worker.is_stopped


class Stage:
    """A runner over fakes."""

    def __init__(self, *messages: Message | None) -> None:
        self.worker = FakeWorker(list(messages))
        self.host = FakeHost(self.worker)
        self.leases = FakeLeases(self.worker)
        self.runner = StageRunner(
            "dit",
            "cpu",
            cast(WorkerHost, self.host),
            cast(LeaseClient, self.leases),
            progress_timeout_s=0.05,
        )

    async def run(self) -> list[StageEvent]:
        return [event async for event in self.runner.run(Message("denoise"))]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 10))


def test_events_come_in_order_and_the_lease_is_left_after_the_worker() -> None:
    stage = Stage(Message("placed"), Message("step", {"step": 1}), DONE)
    queued, started, step, report = run(stage.run())
    assert queued == Queued(1)
    assert isinstance(started, Started)
    assert (started.fencing_token, started.dtype) == (7, "float32")
    assert step == Message("step", {"step": 1})
    assert isinstance(report, Report)
    assert report.granted_at < report.released_at
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("released", True)
    assert stage.runner.active_job_count == 0


def test_an_error_of_the_worker_is_raised() -> None:
    stage = Stage(error_message(errors.VramBudgetExceededError("no memory")))
    with pytest.raises(errors.VramBudgetExceededError, match="no memory"):
        run(stage.run())
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("released", True)


def test_a_worker_that_dies_is_reported_with_its_signal() -> None:
    stage = Stage(Message("placed"), None)
    with pytest.raises(errors.WorkerCrashedError, match="worker 4711 was killed by signal 9"):
        run(stage.run())
    assert stage.leases.left == "released"


def test_a_worker_without_progress_is_killed() -> None:
    stage = Stage(Message("placed"))
    with pytest.raises(errors.WorkerStalledError, match="4711"):
        run(stage.run())
    assert stage.worker.is_killed
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("released", True)


def test_a_worker_that_does_not_read_its_request_is_killed() -> None:
    stage = Stage()
    stage.worker.reads = False
    with pytest.raises(errors.WorkerStalledError, match="4711"):
        run(stage.run())
    assert stage.worker.is_killed
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("released", True)


def test_closing_the_runner_ends_its_jobs_and_leaves_their_leases() -> None:
    async def scenario() -> Stage:
        stage = Stage(Message("placed"))
        events = stage.runner.run(Message("denoise"))
        assert [await anext(events), type(await anext(events))] == [Queued(1), Started]
        await stage.runner.close()
        assert stage.runner.active_job_count == 0
        with pytest.raises(asyncio.CancelledError):
            await anext(events)
        return stage

    stage = run(scenario())
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("released", True)


def test_a_lost_lease_kills_the_worker_at_once() -> None:
    stage = Stage(Message("placed"))

    async def lose_it_once_started() -> None:
        async for event in stage.runner.run(Message("denoise")):
            if isinstance(event, Started):
                assert stage.leases.lease is not None
                stage.leases.lease.lose("not renewed")

    with pytest.raises(errors.LeaseLostError, match="not renewed"):
        run(lose_it_once_started())
    assert stage.worker.is_killed
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("lost", True)


def test_a_worker_that_does_not_die_leaves_the_device_in_quarantine() -> None:
    stage = Stage(Message("placed"), DONE)
    stage.worker.dies = False
    with pytest.raises(errors.DeviceQuarantinedError):
        run(stage.run())
    assert stage.leases.left == "lost"


def test_closing_the_events_stops_the_worker_before_the_lease_is_left() -> None:
    async def scenario() -> Stage:
        stage = Stage(Message("placed"), Message("step"))
        async with contextlib.aclosing(stage.runner.run(Message("denoise"))) as events:
            async for event in events:
                if isinstance(event, Message):
                    break
        return stage

    stage = run(scenario())
    assert (stage.leases.left, stage.leases.worker_was_stopped) == ("released", True)
    assert stage.runner.active_job_count == 0


def test_a_stage_that_still_loads_says_when_to_try_again() -> None:
    stage = Stage()
    stage.host.is_ready = False
    with pytest.raises(errors.UnavailableError, match="still being loaded") as caught:
        run(stage.run())
    assert caught.value.retry_delay_s == stage_runner.LOADING_RETRY_S
    assert stage.leases.lease is None
