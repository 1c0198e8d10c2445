"""An orchestrator that says what a test tells it, in the place of a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np

from acestage.audio import Audio
from acestage.errors import CancelledError, InvalidArgumentError, NotFoundError
from acestage.generation import (
    AudioChunk,
    Generation,
    GenerationEvent,
    JobQueued,
    ProcessMemory,
    StageProgress,
    StageStarted,
    Track,
)
from acestage.generation_options import Model, Settings
from acestage.status import QueueStatus, StageModel, StageStatus, Status

RATE = 48_000
NO_AUDIO = b"no audio"
DAMAGED = b"damaged"
SHORTENED = "the file is cut off or damaged, 4.87 s of it were read"
Line = GenerationEvent | Exception | asyncio.Event
"""What a call says, raises, or waits for."""


class ScriptedOrchestrator:
    """The methods of an `AsyncClient` that a book of jobs uses.

    Attributes:
        calls: what each call that starts a job, or attaches to one, says; the first is for the first call.
        started: caption and options of each job that was asked for.
        cancelled: ids of jobs that were to be stopped.
        on_cancel: what else happens then.
        uploaded: what came as audio; the first has the id a00…01.
        upload_timeouts_s: how long each upload may take.
    """

    target = "127.0.0.1:1"

    def __init__(self, *calls: Iterable[Line]) -> None:
        self.calls = [list(call) for call in calls]
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.attached: list[str] = []
        self.cancelled: list[str] = []
        self.uploaded: list[bytes] = []
        self.upload_timeouts_s: list[float] = []
        self.on_cancel: Callable[[], object] = lambda: None

    def stream(self, caption: str, **options: Any) -> AsyncGenerator[GenerationEvent, None]:
        self.started.append((caption, options))
        return self._say()

    def attach(self, job_id: str) -> AsyncGenerator[GenerationEvent, None]:
        self.attached.append(job_id)
        return self._say()

    async def cancel(self, job_id: str, timeout_s: float) -> str:
        self.cancelled.append(job_id)
        self.on_cancel()
        return "cancelled"

    async def status(self, timeout_s: float) -> Status:
        now = datetime(2026, 1, 2, tzinfo=UTC)
        models = tuple(StageModel(name, "float32", 1) for name in ("tiny", "tiny-base"))
        stages = tuple(
            StageStatus(stage, "", True, "", models, "", "cpu", 0, (), None, "warm", "none")
            for stage in ("text_encoder", "dit", "vae")
        )
        queue = QueueStatus(1, 2, 200, 3, 4, 5)
        memory = ProcessMemory("orchestrator", 1, 1, 1)
        return Status("1", now, now, (), stages, (), (), (), 0.0, queue, (), memory)

    async def upload(self, source: BinaryIO, *, timeout_s: float) -> Audio:
        data = source.read()
        self.upload_timeouts_s.append(timeout_s)
        if data == NO_AUDIO:
            raise InvalidArgumentError.at("data", "is no audio that can be read")
        self.uploaded.append(data)
        warnings = (SHORTENED,) if data == DAMAGED else ()
        return Audio(f"a{len(self.uploaded):032x}", 1.0, RATE, RATE, 2, "WAV", RATE, 2, 0.5, 0.1, warnings)

    async def _say(self) -> AsyncGenerator[GenerationEvent, None]:
        lines = self.calls.pop(0) if self.calls else [NotFoundError("job_id: no such job")]
        for line in lines:
            match line:
                case asyncio.Event():
                    await line.wait()
                case Exception():
                    raise line
                case event:
                    yield event


def samples(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Half of full scale at most."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 2)).astype(np.float32)


def song(job_id: str, *, sample_count: int = 4_800, take_count: int = 1) -> list[GenerationEvent]:
    """What the orchestrator says of a job that goes well."""
    audio = [samples(sample_count, index) for index in range(take_count)]
    return [
        JobQueued(job_id, 1),
        JobQueued(job_id, 0),
        StageStarted("dit", "cpu", "float32", "1-1", 1, 0.0, "none", 100, False),
        StageProgress("dit", 1, 2),
        StageProgress("dit", 2, 2),
        *(AudioChunk(index, 0, audio[index], RATE) for index in range(take_count)),
        generation(job_id, audio),
    ]


def generation(job_id: str, audio: list[np.ndarray[Any, np.dtype[np.float32]]]) -> Generation:
    tracks = tuple(
        Track(index, 7 + index, take, RATE, 1.0, 0.5, 0.3, "ab", ()) for index, take in enumerate(audio)
    )
    return Generation(job_id, tracks, _settings(len(audio)), (), 3.0, 2.0, ())


def stopped(job_id: str) -> CancelledError:
    return CancelledError(f"job {job_id} was cancelled", metadata={"job_id": job_id})


def _settings(take_count: int) -> Settings:
    return Settings(
        caption="piano",
        lyrics="",
        language="en",
        duration_s=0.1,
        bpm=None,
        key_scale="",
        time_signature="",
        seed=7,
        step_count=2,
        shift=3.0,
        guidance_scale=1.0,
        cfg_interval_start=0.0,
        cfg_interval_end=1.0,
        timesteps=(),
        instruction="",
        batch_size=take_count,
        model=Model("tiny", True, True),
        device="cpu",
        dtype="float32",
        quantization="none",
        task="text2music",
        seeds=tuple(range(7, 7 + take_count)),
        source_id="",
        reference_id="",
        audio_codes="",
        audio_cover_strength=1.0,
        cover_noise_strength=0.0,
        repaint_start_s=None,
        repaint_end_s=None,
        track_name="",
        track_classes=(),
        infer_method="ode",
        adapters=(),
        kernels="eager",
    )
