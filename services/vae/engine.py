"""Tiled decoding. Plain classes: no gRPC, no processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder

from acestage.planning import DEFAULT_TILE_FRAMES
from services.runtime.finite import check_finite
from services.vae.tiles import Convolution, halo_frame_count, tiles


@dataclass(frozen=True, slots=True)
class DecodeStart:
    """Where a decode begins: at `frame` of the item `item_index`. What is before is not decoded."""

    item_index: int = 0
    frame: int = 0


_BEGINNING = DecodeStart()


@dataclass(frozen=True, slots=True)
class DecodedTile:
    """The audio of one tile.

    Attributes:
        item_index: which item of the batch.
        start_sample: first sample within the item.
        audio: [samples, channels], float32, on the CPU.
        tile: 1-based number over all items, of `tile_count`; both count from the start of this decode.
    """

    item_index: int
    start_sample: int
    audio: torch.Tensor
    tile: int
    tile_count: int


class VaeEngine:
    """The decoder and its tiling."""

    def __init__(self, decoder: OobleckDecoder) -> None:
        self.decoder = decoder
        layers = [_geometry(m) for m in decoder.modules() if isinstance(m, _CONVOLUTIONS)]
        self.halo_frame_count = halo_frame_count(layers)

    def decode(
        self, latents: torch.Tensor, tile_frame_count: int, start: DecodeStart = _BEGINNING
    ) -> Iterator[DecodedTile]:
        """Decodes `latents` [items, frames, channels] from `start` on, item after item, tile after tile.

        Tiles have a halo as wide as the decoder's receptive field, so every sample is computed from the same
        latents as in an untiled decode. What differs is rounding: a tile's convolutions may add up in another
        order. So a decode that was cut short can be taken up again, in tiles of any size.
        `tile_frame_count` 0 means `DEFAULT_TILE_FRAMES`.

        Raises:
            NonFiniteError: a tile overflowed float16.
        """
        parameter = next(self.decoder.parameters())
        item_count, frame_count = latents.shape[:2]
        plan = [
            (item_index, tile)
            for item_index in range(start.item_index, item_count)
            for tile in tiles(
                frame_count,
                tile_frame_count or DEFAULT_TILE_FRAMES,
                self.halo_frame_count,
                first=start.frame if item_index == start.item_index else 0,
            )
        ]
        for number, (item_index, tile) in enumerate(plan, start=1):
            window = latents[item_index, None, tile.halo_start : tile.halo_stop]
            window = window.to(parameter.device, parameter.dtype)
            samples = self.decoder(window.transpose(1, 2))[0]
            hop = samples.shape[-1] // window.shape[1]
            skipped = (tile.start - tile.halo_start) * hop
            audio = samples[:, skipped : skipped + (tile.stop - tile.start) * hop]
            check_finite(audio, "vae", f"the samples of tile {number} of {len(plan)}")
            yield DecodedTile(
                item_index=item_index,
                start_sample=tile.start * hop,
                audio=audio.transpose(0, 1).to("cpu", torch.float32),
                tile=number,
                tile_count=len(plan),
            )


_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)


def _geometry(layer: torch.nn.Conv1d | torch.nn.ConvTranspose1d) -> Convolution:
    return Convolution(
        kernel_size=layer.kernel_size[0],
        padding=int(layer.padding[0]),
        dilation=layer.dilation[0],
        stride=layer.stride[0],
        is_transposed=isinstance(layer, torch.nn.ConvTranspose1d),
    )
