"""A stage runner's surroundings for tests: a host, workers and a ledger that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from acestage import errors
from acestage.planning import MIB, ActivationCurve, StageMemory
from acestage.protos.lease.v1 import lease_pb2
from acestage.setting_types import QuantizationChoice
from acestage.tensors import WireTensor
from services.dit.budget import DitBudget
from services.runtime.devices.device_memory import DeviceMemory
from services.runtime.jobs.job_budget import JobBudget
from services.runtime.jobs.lease_client import HeldLease, LeaseClient
from services.runtime.jobs.stage_device import StageDevice
from services.runtime.jobs.stage_event import StageEvent
from services.runtime.jobs.stage_runner import StageRunner
from services.runtime.preload.facts import MappedModel, PreloadFacts
from services.runtime.workers.messages import Message, error_message
from services.runtime.workers.worker_host import WorkerHost

PLACED = Message("placed", {"kernels": "eager"})
DONE = Message("done", {"compute_s": 0.2, "peak_rss_bytes": 5, "peak_device_bytes": 0})
STEP = Message("step", {"step": 1})

FRAMES = 100
MODEL, LARGE_MODEL, COPY = "turbo", "xl", "turbo-copy"
"""Models of the stage: the second has three times the weights of the first, the third has the first one's."""


def memory(weights_mib: int = 100, frame_mib: int = 1) -> StageMemory:
    """10 MiB of context, no reserve; INT8 halves the weights; a pass takes `frame_mib` a frame, two twice."""
    single = ActivationCurve(((1, frame_mib * MIB), (1000, 1000 * frame_mib * MIB)))
    guided = ActivationCurve(((1, 2 * frame_mib * MIB), (1000, 2000 * frame_mib * MIB)))
    item = ActivationCurve(((1, 0),))
    return StageMemory(
        context_bytes=10 * MIB,
        reserve_bytes=0,
        weights_bytes={"none": weights_mib * MIB, "int8": weights_mib * MIB // 2},
        activations={
            **{("single", q): single for q in ("none", "int8")},  # type: ignore[dict-item]
            **{("guided", q): guided for q in ("none", "int8")},  # type: ignore[dict-item]
            **{("item", q): item for q in ("none", "int8")},  # type: ignore[dict-item]
            **{("prompt", q): item for q in ("none", "int8")},  # type: ignore[dict-item]
        },
    )


def denoise_request(frames: int = FRAMES, *, guidance_scale: float = 7.0, model: str = MODEL) -> Message:
    context = WireTensor("context_latents", "float32", (1, frames, 2), bytes(8 * frames))
    states = WireTensor("encoder_hidden_states", "float32", (1, 0, 2), b"")
    fields = {"seeds": [1], "guidance_scale": guidance_scale, "quantization": "", "model": model}
    return Message("denoise", fields, (context, states))


class FakeWorker:
    """Answers what it is told to answer; nothing more comes where nothing is left."""

    _pids = iter(range(4711, 10_000))

    def __init__(self, answers: Sequence[Message | None]) -> None:
        self.pid = next(self._pids)
        self.answers: asyncio.Queue[Message | None] = asyncio.Queue()
        for answer in answers:
            self.answers.put_nowait(answer)
        self.sent: list[Message] = []
        self.is_killed = False
        self.is_stopped = False
        self.cancelled_jobs: list[int] = []
        self.dies = True
        self.reads = True
        self.obeys = True
        self.death = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return not self.death.is_set() and not self.is_killed

    @property
    def has_died(self) -> bool:
        return self.death.is_set() and not self.is_killed

    async def send(self, message: Message) -> None:
        if not self.reads:
            await asyncio.Event().wait()
        self.sent.append(message)

    def cancel(self, job: int) -> None:
        self.cancelled_jobs.append(job)
        if self.obeys:
            self.answers.put_nowait(error_message(errors.CancelledError("stopped")))

    async def receive(self) -> Message | None:
        return await self.answers.get()

    async def exit_code(self) -> int:
        return -9

    async def ended(self) -> None:
        await self.death.wait()

    def kill(self) -> None:
        self.is_killed = True

    async def stop(self, *, grace_s: float) -> None:
        await asyncio.sleep(0)
        if not self.dies:
            raise errors.DeviceQuarantinedError(f"worker {self.pid} did not die")
        self.is_stopped = True
        self.death.set()


class FakeHost:
    """Forks the workers that it was given, in turn."""

    def __init__(self, workers: Sequence[FakeWorker], dtype: str) -> None:
        self.workers = list(workers)
        self.forked: list[FakeWorker] = []
        self.is_ready = True
        self.error: errors.AcestageError | None = None
        self.memories = {dtype: memory(), "float32": memory(weights_mib=200)}
        large = {dtype: memory(weights_mib=300), "float32": memory(weights_mib=600)}
        self._facts = PreloadFacts(
            {
                MODEL: MappedModel(MODEL, dtype, self.memories),
                LARGE_MODEL: MappedModel(LARGE_MODEL, dtype, large),
                COPY: MappedModel(MODEL, dtype, self.memories),
            }
        )

    def facts(self) -> PreloadFacts | None:
        return self._facts if self.is_ready else None

    def load_error(self) -> BaseException | None:
        return self.error

    async def ready(self) -> PreloadFacts:
        return self._facts

    async def fork(self) -> FakeWorker:
        self.forked.append(self.workers[len(self.forked)])
        return self.forked[-1]

    def memory(self) -> list[Any]:
        return []


class FakeLeases:
    """Grants at once unless told to wait, and records how each lease was left."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.lease: HeldLease | None = None
        self.asked_bytes: list[int] = []
        self.left: list[str] = []
        self.workers_living_at_the_end: list[int] = []
        self.may_grant = asyncio.Event()
        self.may_grant.set()
        self.refusal: errors.AcestageError | None = None
        self.grows = True
        self.is_exclusive = True
        self.grown: list[int] = []

    @contextlib.asynccontextmanager
    async def hold(
        self, device: str, vram_bytes: int, *, on_waiting: Callable[[int], None], device_bytes: int
    ) -> AsyncIterator[HeldLease]:
        self.asked_bytes.append(vram_bytes)
        on_waiting(1)
        if self.refusal is not None:
            raise self.refusal
        await self.may_grant.wait()
        lease = lease_pb2.Lease(
            lease_id=f"1-{len(self.asked_bytes)}", device=device, fencing_token=7, vram_bytes=vram_bytes
        )
        held = _FakeLease(lease_pb2.LeaseGranted(lease=lease, is_exclusive=self.is_exclusive), device_bytes)
        held.grows, held.grown = self.grows, self.grown
        self.lease = held
        try:
            yield held
        finally:
            self.left.append("lost" if held.lost.is_set() else "released")
            living = [worker.pid for worker in self._host.forked if not worker.death.is_set()]
            self.workers_living_at_the_end.extend(living)


class _FakeLease(HeldLease):
    grows = True
    grown: list[int]

    async def grow(self, vram_bytes: int) -> bool:
        self.grown.append(vram_bytes)
        if self.grows:
            self.vram_bytes = self.wanted_bytes = vram_bytes
        return self.grows


@dataclass(frozen=True, slots=True)
class _FakeDevice(StageDevice):
    """Shows `free_mib` as free, one figure after the other; the last one stays."""

    free_mib: list[int] = field(default_factory=list)

    def read_memory(self) -> DeviceMemory:
        free_mib = self.free_mib.pop(0) if len(self.free_mib) > 1 else self.free_mib[0]
        return DeviceMemory("cpu", "fake", self.total_bytes, free_mib * MIB)


class Stage:
    """A DiT's runner over fakes, on a device of `device_mib`."""

    def __init__(
        self,
        *workers: Sequence[Message | None],
        device_mib: int = 4096,
        budget: JobBudget | None = None,
        quantization: QuantizationChoice = "auto",
        dtype: str = "float32",
        max_hold_s: float = 30.0,
        stays_warm: bool = True,
        is_exclusive: bool = True,
    ) -> None:
        self.free_mib = [device_mib]
        self.workers = [FakeWorker(answers) for answers in workers]
        self.host = FakeHost(self.workers, dtype)
        self.leases = FakeLeases(self.host)
        self.leases.is_exclusive = is_exclusive
        device = _FakeDevice(
            name="cpu",
            total_bytes=device_mib * MIB,
            max_bytes=None,
            run_dir=Path("/nowhere"),
            quantization=quantization,
            tile_frame_count=128,
            free_mib=self.free_mib,
        )
        self.runner = StageRunner(
            "dit",
            cast(WorkerHost, self.host),
            cast(LeaseClient, self.leases),
            budget or DitBudget(),
            device,
            progress_timeout_s=0.1,
            max_hold_s=max_hold_s,
            stays_warm=stays_warm,
        )

    async def run(self, request: Message | None = None) -> list[StageEvent]:
        return [event async for event in self.runner.run(request or denoise_request())]
