"""Tiled decoding and encoding. Plain classes: no gRPC, no processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder

from acestage.planning import DEFAULT_TILE_FRAMES
from services.runtime.finite import check_finite
from services.runtime.weights.borrowed import borrowed
from services.vae.latents import Latents
from services.vae.oobleck import decode_rows, encode_rows
from services.vae.row_weights import place_for_rows
from services.vae.tiles import (
    Convolution,
    Tile,
    decoder_halo_frame_count,
    encoder_halo_frame_count,
    hop_sample_count,
    tiles,
)


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
        frames: the latent frames of the item that the tile is for, and those that it depends on besides.
        audio: [samples, channels], on the CPU, float32 (float64 where the engine computes in that).
        tile: 1-based number over all items, of `tile_count`; both count from the start of this decode.
    """

    item_index: int
    start_sample: int
    frames: Tile
    audio: torch.Tensor
    tile: int
    tile_count: int


@dataclass(frozen=True, slots=True)
class EncodedTile:
    """The latents of one tile.

    Attributes:
        frames: the latent frames that the tile is for, and those that were encoded besides.
        latents: [1, frames, channels], the mean of the posterior, on the CPU, float32 (float64 where the
            engine computes in that).
        tile: 1-based number of `tile_count`; both count from the start of this encode.
    """

    frames: Tile
    latents: torch.Tensor
    tile: int
    tile_count: int


class VaeEngine:
    """Decoder, encoder and their tiling.

    Only the decoder is placed. An encode borrows the encoder, and has it in the decoder's data type on the
    decoder's device.
    """

    def __init__(self, decoder: OobleckDecoder, encoder: OobleckEncoder) -> None:
        self.decoder = decoder
        self.encoder = encoder
        self.halo_frame_count = decoder_halo_frame_count(_layers(decoder))
        self.encoder_halo_frame_count = encoder_halo_frame_count(_layers(encoder))
        self.hop_sample_count = hop_sample_count(_layers(encoder))
        self.latent_channel_count = decoder.conv1.in_channels
        self.audio_channel_count = encoder.conv1.in_channels

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the decoder to `device` in `dtype`, as decoding needs it. Called once."""
        place_for_rows(self.decoder, device, dtype)

    def decode(
        self,
        latents: torch.Tensor | Latents,
        tile_frame_count: int,
        start: DecodeStart = _BEGINNING,
        frames: range | None = None,
    ) -> Iterator[DecodedTile]:
        """Decodes `latents` [items, frames, channels] from `start` on, item after item, tile after tile.

        Tiles have a halo as wide as the decoder's receptive field, so every sample is computed from the same
        latents as in an untiled decode. What differs is rounding: a tile's convolutions may add up in another
        order. So a decode that was cut short can be taken up again, in tiles of any size. The first tiles of
        an item are small, so that sound starts early; those of every item, so that none depends on its place.

        Args:
            latents: to decode; frames on their way are waited for.
            tile_frame_count: the most frames of a tile; 0 means `DEFAULT_TILE_FRAMES`.
            start: where the decode begins.
            frames: the consecutive latent frames of every item whose audio is wanted; None: all.

        Raises:
            InvalidArgumentError: latents that were on their way did not come.
            NonFiniteError: a tile overflowed float16.
        """
        if isinstance(latents, torch.Tensor):
            latents = Latents(latents)
        parameter = next(self.decoder.parameters())
        wanted = range(latents.frame_count) if frames is None else frames
        plan = [
            (item_index, tile)
            for item_index in range(start.item_index, latents.item_count)
            for tile in tiles(
                range(max(wanted.start, start.frame if item_index == start.item_index else 0), wanted.stop),
                tile_frame_count or DEFAULT_TILE_FRAMES,
                self.halo_frame_count,
                latents.frame_count,
                begins_small=item_index != start.item_index or start.frame <= wanted.start,
            )
        ]
        for number, (item_index, tile) in enumerate(plan, start=1):
            window = latents.window(item_index, tile.halo_start, tile.halo_stop)
            window = window[0].to(parameter.device, parameter.dtype)
            audio = decode_rows(self.decoder, window, tile.within_halo)
            check_finite(audio, "vae", f"the samples of tile {number} of {len(plan)}")
            yield DecodedTile(
                item_index=item_index,
                start_sample=tile.start * self.hop_sample_count,
                frames=tile,
                audio=audio.to("cpu", _result_dtype(parameter.dtype)),
                tile=number,
                tile_count=len(plan),
            )

    @contextmanager
    def borrowed_encoder(self) -> Iterator[OobleckEncoder]:
        """The encoder, as `encode_with` needs it."""
        parameter = next(self.decoder.parameters())
        with borrowed(self.encoder, parameter.device, parameter.dtype, place_for_rows) as encoder:
            yield encoder

    def encode(
        self, audio: torch.Tensor, tile_frame_count: int, start_frame: int = 0
    ) -> Iterator[EncodedTile]:
        """Does `encode_with` with the encoder borrowed for as long as it takes."""
        with self.borrowed_encoder() as encoder:
            yield from self.encode_with(encoder, audio, tile_frame_count, start_frame)

    def encode_with(
        self, encoder: OobleckEncoder, audio: torch.Tensor, tile_frame_count: int, start_frame: int = 0
    ) -> Iterator[EncodedTile]:
        """Encodes `audio` [1, samples, channels], float32, to the mean of the posterior, tile after tile.

        Tiles have a halo as wide as the encoder's receptive field, with the effect that `decode` describes.

        Args:
            encoder: from `borrowed_encoder`.
            audio: whole latent frames long.
            tile_frame_count: the most latent frames of a tile; 0 means `DEFAULT_TILE_FRAMES`.
            start_frame: where to begin; what is before is not encoded.

        Raises:
            NonFiniteError: a tile overflowed float16.
        """
        hop = self.hop_sample_count
        frame_count, rest = divmod(audio.shape[1], hop)
        assert not rest, f"{rest} samples are left over"
        parameter = next(self.decoder.parameters())
        plan = list(
            tiles(
                range(start_frame, frame_count),
                tile_frame_count or DEFAULT_TILE_FRAMES,
                self.encoder_halo_frame_count,
                frame_count,
            )
        )
        for number, tile in enumerate(plan, start=1):
            window = audio[0, tile.halo_start * hop : tile.halo_stop * hop]
            window = window.to(parameter.device, parameter.dtype)
            # The first half of the channels is the mean, the other one the scale.
            mean = encode_rows(encoder, window).chunk(2, dim=1)[0]
            wanted = tile.within_halo
            latents = mean[None, wanted.start : wanted.stop]
            check_finite(latents, "vae", f"the latents of tile {number} of {len(plan)}")
            yield EncodedTile(
                frames=tile,
                latents=latents.to("cpu", _result_dtype(parameter.dtype)),
                tile=number,
                tile_count=len(plan),
            )


def _result_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _layers(module: torch.nn.Module) -> list[Convolution]:
    """The convolutions of `module`, in the order of the computation, which is that of their definition."""
    return [_geometry(part) for part in module.modules() if isinstance(part, _CONVOLUTIONS)]


_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)


def _geometry(layer: torch.nn.Conv1d | torch.nn.ConvTranspose1d) -> Convolution:
    return Convolution(
        kernel_size=layer.kernel_size[0],
        padding=int(layer.padding[0]),
        dilation=layer.dilation[0],
        stride=layer.stride[0],
        is_transposed=isinstance(layer, torch.nn.ConvTranspose1d),
    )
