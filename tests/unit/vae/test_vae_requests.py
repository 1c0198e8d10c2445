"""Latents that come in pieces: when the job gets in line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acestage import tensors
from acestage.checkpoints import open_checkpoint
from acestage.errors import UnavailableError
from acestage.protos.vae.v1 import vae_pb2 as pb
from acestage.tensors import WireTensor
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.stage_job import StageJob
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.workers.messages import Message
from services.vae.service import VaeServicer

MODEL = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints")).model
HALO = 9


class Runner:
    """Takes jobs, which are done at once."""

    def __init__(self, *, is_ready: bool = True) -> None:
        self.is_ready = is_ready
        self.jobs: list[Message] = []

    @property
    def plans(self) -> Runner:
        return self

    def facts(self) -> Any:
        if not self.is_ready:
            raise UnavailableError("vae: the model is still being loaded")
        memory = SimpleNamespace(halo_frame_count=HALO)
        return SimpleNamespace(models={MODEL.name: SimpleNamespace(memory=memory)})

    async def run(self, job: Message, feed: Feed | None = None) -> AsyncIterator[Any]:
        self.jobs.append(job)
        self.tensor_bytes = StageJob(job, feed).tensor_bytes
        for event in ():
            yield event


def decode(runner: Runner, sent_count: int, **parameters: int) -> None:
    """Sends `sent_count` frames and then nothing, without an end."""

    async def requests() -> AsyncIterator[pb.DecodeRequest]:
        yield pb.DecodeRequest(parameters=pb.DecodeParameters(**parameters))
        latents = torch.zeros(1, sent_count, MODEL.latent_channel_count)
        for chunk in tensors.encode(WireTensor.from_torch("latents", latents)):
            yield pb.DecodeRequest(tensor=chunk)
        await asyncio.Event().wait()

    async def scenario() -> None:
        servicer = VaeServicer(runner, ModelCatalog([MODEL]))  # type: ignore[arg-type]
        await servicer.Decode(requests(), SimpleNamespace())  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_short_range_waits_for_no_frames_beyond_its_halo() -> None:
    runner = Runner()
    decode(runner, 24 + HALO, frame_count=100, start_frame=20, stop_frame=24)
    assert len(runner.jobs) == 1


def test_in_line_a_job_has_the_bytes_that_are_still_to_come() -> None:
    runner = Runner()
    decode(runner, 24 + HALO, frame_count=100, start_frame=20, stop_frame=24)
    assert runner.tensor_bytes == 100 * MODEL.latent_channel_count * 4


def test_pieces_are_refused_while_the_model_is_being_loaded() -> None:
    with pytest.raises(UnavailableError, match="still being loaded"):
        decode(Runner(is_ready=False), 30, frame_count=100)
