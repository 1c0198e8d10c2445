"""What the VAE does in its worker process: messages to engine calls and back."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import VAE
from acestage.checkpoints.loading import load_decoder
from acestage.checkpoints.modules import build_module
from acestage.planning import Quantization, StageMemory
from acestage.tensors import WireTensor
from services.runtime.messages import Message
from services.runtime.placement import place
from services.vae.engine import DecodeStart, VaeEngine
from services.vae.memory import measure

COMPONENTS = (VAE,)
"""What the stage uses of a checkpoint."""


def load(checkpoint: Checkpoint) -> VaeWorker:
    """Maps the decoder's weights."""
    return VaeWorker(VaeEngine(load_decoder(checkpoint)))


def without_weights(checkpoint: Checkpoint) -> VaeWorker:
    """The same on the meta device, which is all that `memory` needs: no file with weights need be there."""
    return VaeWorker(VaeEngine(build_module(checkpoint.component(VAE)).decoder))


class VaeWorker:
    def __init__(self, engine: VaeEngine) -> None:
        self.engine = engine

    def modules(self) -> list[torch.nn.Module]:
        return [self.engine.decoder]

    def memory(self, dtype: torch.dtype, cpu_thread_count: int | None = None) -> StageMemory:
        return measure(self, dtype, cpu_thread_count)

    def place(self, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
        # Nothing to quantize: it has no linear layer.
        place(self.engine.decoder, device, dtype)

    def run(self, request: Message) -> Iterator[Message]:
        latents = request.tensor_map()["latents"].to_torch()
        start = DecodeStart(**request.fields.get("start", {}))
        for tile in self.engine.decode(latents, request.fields["tile_frame_count"], start):
            fields = {
                "item_index": tile.item_index,
                "start_sample": tile.start_sample,
                "stop_frame": tile.stop_frame,
                "tile": tile.tile,
                "tile_count": tile.tile_count,
            }
            yield Message("tile", fields, (WireTensor.from_torch("audio", tile.audio),))
