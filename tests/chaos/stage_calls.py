"""Calls of single stages, without the orchestrator's pipeline."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from acestage.protos.dit.v1 import dit_pb2
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.vae.v1 import vae_pb2
from acestage.tensors import WireTensor
from services.orchestrator.stage_clients import Deadline, DitClient, VaeClient
from services.runtime.rpc.channels import channel_between_services

TIMEOUT_S = 120.0
WIDTH, CHANNELS = 64, 8
"""Of the tiny checkpoints."""


@dataclass
class Heard:
    """What a stage said of a job."""

    started: list[stage_pb2.StageStarted] = field(default_factory=list)
    reports: list[stage_pb2.StageReport] = field(default_factory=list)
    result: npt.NDArray[np.float32] | None = None

    @property
    def report(self) -> stage_pb2.StageReport:
        (report,) = self.reports
        return report

    @property
    def adaptations(self) -> list[str]:
        """Their kinds, as "INT8"."""
        kinds = (stage_pb2.AdaptationKind.Name(a.kind) for a in self.report.adaptations)
        return [kind.removeprefix("ADAPTATION_KIND_") for kind in kinds]

    def hear(self, response: Any) -> None:
        match response.WhichOneof("event"):
            case "started":
                self.started.append(response.started)
            case "report":
                self.reports.append(response.report)


async def denoise(
    address: str, frame_count: int, *, guidance_scale: float = 7.0, step_count: int = 4, model: str = ""
) -> Heard:
    """Denoises random conditioning, the same for each number of frames."""
    generator = torch.Generator().manual_seed(frame_count)

    def random(name: str, *shape: int) -> WireTensor:
        return WireTensor.from_torch(name, torch.randn(*shape, generator=generator))

    conditioning = [
        random("encoder_hidden_states", 1, 12, WIDTH),
        random("null_condition", 1, 1, WIDTH),
        random("context_latents", 1, frame_count, 2 * CHANNELS),
    ]
    parameters = dit_pb2.DenoiseParameters(
        seeds=[1],
        step_count=step_count,
        shift=3.0,
        guidance_scale=guidance_scale,
        cfg_interval_end=1.0,
        model=model,
    )
    heard = Heard()
    async with channel_between_services(address) as channel:
        client = DitClient("dit", address, channel)
        shape = (1, frame_count, CHANNELS)
        latents = await client.denoise(parameters, conditioning, shape, heard.hear, Deadline.after(TIMEOUT_S))
    heard.result = latents.to_torch().numpy()
    return heard


async def decode(address: str, frame_count: int) -> Heard:
    """Decodes random latents, the same for each number of frames; checks that chunks follow each other."""
    generator = torch.Generator().manual_seed(frame_count)
    latents = WireTensor.from_torch("latents", torch.randn(1, frame_count, CHANNELS, generator=generator))
    heard = Heard()
    chunks = []
    next_sample = 0
    async with channel_between_services(address) as channel:
        client = VaeClient("vae", address, channel)
        async with aclosing(
            client.decode(vae_pb2.DecodeParameters(), latents, Deadline.after(TIMEOUT_S))
        ) as responses:
            async for response in responses:
                heard.hear(response)
                if response.HasField("audio"):
                    assert response.audio.start_sample == next_sample
                    samples = np.frombuffer(response.audio.samples, dtype="<f4")
                    chunks.append(samples.reshape(-1, response.audio.channel_count))
                    next_sample += len(chunks[-1])
    heard.result = np.concatenate(chunks)
    return heard
