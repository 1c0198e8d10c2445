"""All stages in this process, without leases, workers and preloads: what the split must equal bit by bit.

The servicers, the orchestrator's pipeline and the engines are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt
import torch

from acestage.checkpoints import open_checkpoint
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.settings import Settings
from services.dit import service as dit_service
from services.dit import worker as dit_worker
from services.orchestrator.pipeline import Pipeline, Result
from services.orchestrator.stage_clients import Deadline, DitClient, TextEncoderClient, VaeClient
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.stage_server import model_to_pb
from services.runtime.workers.messages import Message
from services.text_encoder import service as text_encoder_service
from services.text_encoder import worker as text_encoder_worker
from services.vae import service as vae_service
from services.vae import worker as vae_worker
from tests.running_stack import THREADS

Samples = npt.NDArray[np.float32]

SOURCE_ID = "source"
REFERENCE_ID = "reference"

_STAGES: dict[str, tuple[Any, Any]] = {
    "text_encoder": (text_encoder_worker, text_encoder_service),
    "dit": (dit_worker, dit_service),
    "vae": (vae_worker, vae_service),
}


class InlineRunner:
    """In the place of a stage's runner: jobs are done at once, where they are."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self._is_placed = False

    def place(self, dtype: torch.dtype = torch.float32) -> None:
        """Does what a worker process does first; without it the first job does."""
        self.worker.place(torch.device("cpu"), dtype, "none")
        self._is_placed = True

    async def run(self, job: Message, feed: object = None) -> AsyncIterator[Message]:
        if not self._is_placed:
            self.place()
        with torch.no_grad():
            for message in self.worker.run(job):
                yield message


class HeldAudio:
    """In the place of the store of uploaded audio."""

    def __init__(self, audio: dict[str, Samples]) -> None:
        self._audio = audio

    def facts(self, audio_id: str) -> Any:
        return SimpleNamespace(sample_count=len(self._audio[audio_id]))

    @contextlib.contextmanager
    def use(self, audio_id: str) -> Iterator[Samples]:
        yield self._audio[audio_id]


class _Info(stage_pb2_grpc.StageServiceServicer):
    def __init__(self, info: stage_pb2.GetStageInfoResponse) -> None:
        self._info = info

    async def GetStageInfo(self, request: Any, context: Any) -> stage_pb2.GetStageInfoResponse:
        return self._info


@dataclass(frozen=True)
class Made:
    """What a request gave.

    Attributes:
        raw: [items, samples, channels], as they are sent.
        result: what is said of them.
        events: all of them, in order.
    """

    # Megabytes, and `asyncio.run` has what it returns written out when it ends.
    raw: Samples = field(repr=False)
    result: Result
    events: list[pb.GenerateResponse] = field(repr=False)

    @property
    def audio(self) -> Samples:
        """With the gain."""
        gains = np.array([track.gain for track in self.result.tracks], np.float32)
        return self.raw * gains[:, None, None]


class InProcess:
    """A checkpoint, loaded once, for any number of requests."""

    def __init__(self, path: str | Path, *, adapters_dir: str = "adapters") -> None:
        checkpoint = open_checkpoint(path, checkpoints_dir=Path("checkpoints"))
        self.model = model_to_pb(checkpoint.model)
        self.catalog = ModelCatalog([checkpoint.model])
        self.settings = Settings(_env_file=None, adapters_dir=Path(adapters_dir))  # type: ignore[call-arg]
        self.runners = {
            stage: InlineRunner(worker.load(checkpoint)) for stage, (worker, _) in _STAGES.items()
        }

    def generate(self, request: pb.GenerateRequest) -> Samples:
        """Normalised audio [items, samples, channels]."""
        return self.make(request).audio

    def make(
        self,
        request: pb.GenerateRequest,
        *,
        source: Samples | None = None,
        reference: Samples | None = None,
    ) -> Made:
        """Does `request`, computed with as many threads as the workers use.

        Args:
            request: whose `source_id` and `reference_id` are set where there is audio for them.
            source: [samples, channels].
            reference: [samples, channels].
        """
        torch.set_num_threads(THREADS)
        audio = {SOURCE_ID: source, REFERENCE_ID: reference}
        store = HeldAudio({name: samples for name, samples in audio.items() if samples is not None})
        named = pb.GenerateRequest()
        named.CopyFrom(request)
        if source is not None:
            named.source_id = SOURCE_ID
        if reference is not None:
            named.reference_id = REFERENCE_ID
        return asyncio.run(self._make(named, store))

    async def _make(self, request: pb.GenerateRequest, store: HeldAudio) -> Made:
        events: list[pb.GenerateResponse] = []
        async with self.pipeline(store) as pipeline:
            await pipeline.check(request)
            with pipeline.hold(request.source_id, request.reference_id) as audio:
                result = await pipeline.run(request, audio, events.append, Deadline.after(600))
        items: list[list[bytes]] = [[] for _ in result.tracks]
        for event in events:
            if event.HasField("audio"):
                items[event.audio.item_index].append(event.audio.samples)
        raw = np.stack([np.frombuffer(b"".join(item), "<f4").reshape(-1, 2) for item in items])
        return Made(raw, result, events)

    @contextlib.asynccontextmanager
    async def pipeline(self, store: Any) -> AsyncIterator[Pipeline]:
        """The orchestrator's pipeline over this process's stages."""
        async with contextlib.AsyncExitStack() as stack:
            channels = {}
            for stage, (_, service) in _STAGES.items():
                server = grpc.aio.server()
                service.add_servicer(self.runners[stage], self.catalog, self.settings, server)
                hosted = stage_pb2.StageModel(model=self.model, dtype="float32")
                info = stage_pb2.GetStageInfoResponse(stage=stage, device="cpu", models=[hosted])
                stage_pb2_grpc.add_StageServiceServicer_to_server(_Info(info), server)
                port = server.add_insecure_port("127.0.0.1:0")
                await server.start()
                stack.push_async_callback(server.stop, None)
                channels[stage] = await stack.enter_async_context(
                    grpc.aio.insecure_channel(f"127.0.0.1:{port}")
                )
            yield Pipeline(
                TextEncoderClient("text_encoder", "", channels["text_encoder"]),
                DitClient("dit", "", channels["dit"]),
                VaeClient("vae", "", channels["vae"]),
                store,
                self.settings,
            )
