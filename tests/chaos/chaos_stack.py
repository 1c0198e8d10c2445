"""A running stack on a fake device, and what tests do to it: jobs in the background, faults, signals."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from acestage import Client
from acestage.errors import AcestageError
from acestage.generation import Generation, GenerationEvent
from acestage.settings import SERVICES
from acestage.status import LeaseStatus, Status
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, Fault, strike_count
from services.runtime.jobs.lease_client import LeaseClient
from services.runtime.rpc.channels import channel_between_services
from tests.running_stack import RunningStack, wait_until

GIB = 1 << 30
DEVICE = "fake:0"
SONG_S = 10.04
TTL_S = 4.0
"""Of leases: the least that is allowed."""


def steady(stage: str, seconds: float, count: int) -> tuple[Fault, ...]:
    """Faults that make each of the first `count` steps or tiles of `stage` so much longer."""
    return tuple(Fault(stage, "slow", at=number, seconds=seconds) for number in range(1, count + 1))


def anew(duration_s: float) -> float:
    """A length that was not asked for before, for a song of the same bits, half a latent frame longer.

    What was would need no text encoder, and its failures are to be seen.
    """
    return duration_s + 0.02 - next(_requests) * 1e-6


_requests = itertools.count()


@dataclass
class Job:
    """A generation in a thread of its own, with all that its client hears.

    Attributes:
        events: so far.
        result: the generation, or the error, once it has ended.
        ended_at: when, on the monotonic clock.
    """

    events: list[GenerationEvent] = field(default_factory=list)
    result: Generation | AcestageError | None = None
    ended_at: float = 0.0
    _client: Client | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, stack: RunningStack, **options: Any) -> Job:
        job = cls(_client=stack.client())
        threading.Thread(target=job._run, args=(options,), daemon=True).start()
        return job

    def until(self, is_it: Callable[[GenerationEvent], bool], what: str, timeout_s: float = 30.0) -> None:
        """Waits for an event; fails the test where the job ends without it."""

        def found() -> bool:
            has_ended = self._ended.is_set()
            if any(is_it(event) for event in tuple(self.events)):
                return True
            assert not has_ended, f"ended without {what}: {self.result}"
            return False

        wait_until(found, what, timeout_s)

    def outcome(self, timeout_s: float) -> str:
        """How it ended: "SUCCEEDED", or the reason of its error."""
        assert self._ended.wait(timeout_s), f"the job has not ended after {timeout_s:.0f} s"
        return self.result.reason if isinstance(self.result, AcestageError) else "SUCCEEDED"

    def generation(self, timeout_s: float) -> Generation:
        """The result, if it succeeded."""
        assert self._ended.wait(timeout_s), f"the job has not ended after {timeout_s:.0f} s"
        assert isinstance(self.result, Generation), self.result
        return self.result

    def disappear(self) -> None:
        """Closes the channel, whatever is under way."""
        assert self._client is not None
        self._client.close()

    def _run(self, options: dict[str, Any]) -> None:
        assert self._client is not None
        try:
            with self._client as client:
                self.result = client.generate("piano", on_event=self.events.append, **options)
        except AcestageError as error:
            self.result = error
        finally:
            self.ended_at = time.monotonic()
            self._ended.set()


@dataclass
class ChaosStack:
    """A stack on `DEVICE`."""

    stack: RunningStack
    run_dir: Path
    total_bytes: int

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        folder: Path,
        *,
        total_bytes: int = 4 * GIB,
        checkpoint: str | Path = "tiny-turbo",
        faults: tuple[Fault, ...] = (),
        **environment: str,
    ) -> Iterator[ChaosStack]:
        run_dir = folder / "run"
        FakeDeviceSpec(total_bytes, faults).write(run_dir, DEVICE)
        settings = {"ACESTAGE_LEASE_TTL": f"{TTL_S:g}"} | environment
        with RunningStack.start(checkpoint, folder, device=DEVICE, **settings) as stack:
            yield cls(stack, run_dir, total_bytes)

    def fail(self, *faults: Fault) -> None:
        """From now on the device has these faults and no others."""
        FakeDeviceSpec(self.total_bytes, faults).write(self.run_dir, DEVICE)

    def until_struck(self, count: int = 1) -> None:
        """Waits until faults have struck so often since `fail`."""
        wait_until(lambda: strike_count(self.run_dir, DEVICE) >= count, f"{count} faults struck")

    def job(self, duration_s: float = 60, **options: Any) -> Job:
        return Job.start(self.stack, duration_s=anew(duration_s), **options)

    def song(self, duration_s: float = 10, **options: Any) -> Generation:
        """One of `SONG_S`, made in as little time as can be, unless `options` say otherwise."""
        with self.stack.client() as client:
            return client.generate(
                "piano", duration_s=anew(duration_s), **{"step_count": 1, "seed": 1} | options
            )

    def status(self) -> Status:
        with self.stack.client() as client:
            return client.status()

    def leases(self) -> tuple[LeaseStatus, ...]:
        return self.status().leases

    def service(self, name: str) -> psutil.Process:
        """The process of "orchestrator" or of a stage."""
        assert name in SERVICES
        return self.stack.find("-m", f"services.{name}", f"--port {self.stack.ports[name]}")

    def workers(self, stage: str | None = None) -> list[psutil.Process]:
        """The workers that live, of one stage or of all."""
        found = []
        for process in self.stack.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = process.parent()
                words = [] if parent is None else parent.cmdline()
                if (
                    words[1:3] == ["-m", "services.runtime.preload"]
                    and process.status() != psutil.STATUS_ZOMBIE
                    and stage in (None, json.loads(words[-1])["stage"])
                ):
                    found.append(process)
        return found

    def until_quiet(self, timeout_s: float = 20.0) -> None:
        """Waits until nothing runs or waits; holders without work may stay."""

        def is_quiet() -> bool:
            status = self.status()
            busy = status.queue.running_count or status.queue.queued_count or status.waiters
            idle = all(lease.is_idle for lease in status.leases)
            return not busy and idle and not any(stage.active_job_count for stage in status.stages)

        wait_until(lambda: self.stack.is_serving() and is_quiet(), "nothing runs or waits", timeout_s)

    def can_be_had(self, timeout_s: float) -> bool:
        """Whether all of the device can be had within `timeout_s`; then nothing else holds any of it."""
        try:
            asyncio.run(self._hold_all(timeout_s))
        except TimeoutError:
            return False
        return True

    async def _hold_all(self, timeout_s: float) -> None:
        async with channel_between_services(self.stack.target) as channel:
            client = LeaseClient(channel, self.stack.target, "probe")
            hold = client.hold(
                DEVICE,
                self.total_bytes,
                on_waiting=lambda position: None,
                device_bytes=self.total_bytes,
            )
            async with asyncio.timeout(timeout_s), hold as lease:
                held = await asyncio.to_thread(self.leases)
                assert [one.lease_id for one in held] == [lease.lease_id]
                assert self.workers() == []


def until_gone(processes: list[psutil.Process], timeout_s: float) -> None:
    """Waits for the end of all; a zombie has ended."""

    def living() -> list[psutil.Process]:
        return [
            process
            for process in processes
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def is_over() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return not living()
        return False

    wait_until(is_over, f"{processes} are gone", timeout_s)
