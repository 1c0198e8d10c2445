"""What the VAE does in its worker process: messages to engine calls and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import VAE
from acestage.checkpoints.loading import load_decoder, load_encoder
from acestage.checkpoints.modules import build_module
from acestage.planning import Quantization, StageMemory
from acestage.tensors import WireTensor
from services.runtime.kernels.kernel import Kernel
from services.runtime.workers.messages import Message
from services.runtime.workers.received import received_tensors
from services.vae.engine import DecodedTile, DecodeStart, EncodedTile, VaeEngine
from services.vae.kernels import KERNELS
from services.vae.latents import Latents
from services.vae.memory import measure
from services.vae.row_weights import RowWeights


def load(checkpoint: Checkpoint) -> VaeWorker:
    """Maps the weights."""
    return VaeWorker(VaeEngine(load_decoder(checkpoint), load_encoder(checkpoint)))


def without_weights(checkpoint: Checkpoint) -> VaeWorker:
    """The same on the meta device, which is all that `memory` needs: no file with weights need be there."""
    vae = build_module(checkpoint.component(VAE))
    return VaeWorker(VaeEngine(vae.decoder, vae.encoder))


class VaeWorker:
    def __init__(self, engine: VaeEngine) -> None:
        self.engine = engine

    def modules(self) -> list[torch.nn.Module]:
        return [self.engine.decoder]

    def borrowed_modules(self) -> list[torch.nn.Module]:
        return [self.engine.encoder]

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[Kernel]:
        return KERNELS

    def memory(self, dtype: torch.dtype, cpu_thread_count: int | None = None) -> StageMemory:
        return measure(self, dtype, cpu_thread_count)

    def place(self, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
        # Nothing to quantize: it has no linear layer.
        self.engine.place(device, dtype)

    def prepared_weights(self, quantization: Quantization) -> RowWeights:
        return RowWeights(self.engine.decoder)

    def run(self, request: Message) -> Iterator[Message]:
        return self._decode(request) if request.kind == "decode" else self._encode(request)

    def _decode(self, request: Message) -> Iterator[Message]:
        fields = request.fields
        first = received_tensors(request)["latents"]
        later = (received_tensors(piece)["latents"] for piece in request.later)
        latents = Latents(first, fields["frame_count"], later)
        start = DecodeStart(**fields.get("start", {}))
        frames = range(fields["start_frame"], fields["stop_frame"])
        for tile in self.engine.decode(latents, fields["tile_frame_count"], start, frames):
            told = {"item_index": tile.item_index, "start_sample": tile.start_sample}
            audio = WireTensor.from_torch("audio", tile.audio)
            yield Message("tile", told | _tile_fields(tile), (audio,))

    def _encode(self, request: Message) -> Iterator[Message]:
        audio = request.tensor_map()["audio"].view_torch()  # the service has looked at every sample
        fields = request.fields
        for tile in self.engine.encode(audio, fields["tile_frame_count"], fields["start_frame"]):
            yield Message("tile", _tile_fields(tile), (WireTensor.from_torch("latents", tile.latents),))


def _tile_fields(tile: DecodedTile | EncodedTile) -> dict[str, int]:
    return {
        "tile": tile.tile,
        "tile_count": tile.tile_count,
        "stop_frame": tile.frames.stop,
        "frame_count": tile.frames.frame_count,
        "halo_frame_count": tile.frames.halo_frame_count,
    }
