"""What a song's settings say of all the work of its stages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import numpy as np
import pytest

from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1.stage_pb2 import Model, StageReport
from acestage.protos.vae.v1 import vae_pb2
from acestage.tensors import WireTensor
from services.orchestrator.song import requests
from services.orchestrator.song.source_latents import SourceLatents
from services.orchestrator.song.timeline import whole_song
from services.orchestrator.song.track_writer import TrackWriter
from services.orchestrator.stage_clients import Deadline, VaeClient
from services.orchestrator.stage_work import Stages, StageWork
from tests.unit.job_events import run
from tests.unit.orchestrator.unreached import UNREACHED

MODEL = Model(
    name="m", latent_channel_count=1, latent_frame_rate_hz=25, sample_rate_hz=100, hop_sample_count=4
)
SAMPLES = np.zeros((1000, 2), np.float32)
LATENTS = WireTensor("latents", "float32", (1, 250, 1), bytes(1000))


class _Vae(VaeClient):
    """Its reports say `kernels`."""

    def __init__(self) -> None:
        super().__init__("vae", "nowhere", UNREACHED)
        self.kernels = ""

    async def encode(self, *asked: Any) -> WireTensor:
        *_, on_event, _ = asked
        on_event(vae_pb2.EncodeResponse(report=StageReport(kernels=self.kernels)))
        return LATENTS

    async def decode(self, *_: Any, **__: Any) -> AsyncGenerator[vae_pb2.DecodeResponse, None]:
        yield vae_pb2.DecodeResponse(report=StageReport(kernels=self.kernels))


@pytest.mark.parametrize(
    ("encoded_by", "decoded_by", "said"),
    [("compiled", "compiled", "compiled"), ("eager", "compiled", "mixed"), ("", "", "")],
)
@pytest.mark.parametrize("is_source", [True, False], ids=["source", "reference"])
def test_the_kernels_of_the_vae_are_those_of_what_it_encoded_as_well(
    encoded_by: str, decoded_by: str, said: str, is_source: bool
) -> None:
    """Also where the latents are those that an earlier song left."""

    async def scenario() -> None:
        vae = _Vae()
        stages = Stages(
            cast(Any, None), cast(Any, None), vae, SourceLatents(vae), cast(Any, None), lambda *_: None
        )
        settings = requests.resolve(pb.GenerateRequest(caption="piano", duration_s=10, seed=1), MODEL)
        vae.kernels = encoded_by
        for _ in range(2):
            work = StageWork(stages, MODEL, {"vae": "float32"}, lambda event: None, Deadline(None))
            if is_source:
                latents = await work.source_latents("a", SAMPLES, whole_song(len(SAMPLES), MODEL))
            else:
                latents = await work.reference_latents("a", SAMPLES)
            assert latents.data == LATENTS.data
            vae.kernels = decoded_by
            writer = TrackWriter(settings, None, MODEL, 250)
            assert await work.decode(LATENTS, writer, lambda chunk: None) == said

    run(scenario())
