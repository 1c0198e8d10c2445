"""How a stage works within a number of bytes: the plain way where it fits, else a way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from acestage.planning.stage_memory import Quantization, StageMemory
from acestage.setting_types import QuantizationChoice

DEFAULT_TILE_FRAMES = 128
"""Latent frames of a tile of the VAE where there is room: larger ones are hardly faster."""
SMALLEST_TILE_FRAMES = 8

EncodeMode = Literal["encode", "codes"]
"""Modes of the text encoder: without audio codes, and with them."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way of working.

    Attributes:
        mode: as in `StageMemory.activations`.
        quantization: how the weights are held.
        total_bytes: what the stage needs.
    """

    mode: str
    quantization: Quantization
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Choice(Way):
    """The way to take; `fits`: whether there are so many bytes."""

    fits: bool


def dit_ways(
    memory: StageMemory,
    frame_count: int,
    item_count: int,
    *,
    has_guidance: bool,
    quantization: QuantizationChoice,
) -> list[Way]:
    """All ways of denoising, the best first; arguments as in `choose_dit`."""
    is_guided = has_guidance and ("guided", "none") in memory.activations
    return [
        Way(mode, key, memory.total_bytes(mode, frame_count, key, item_count))
        for key in _quantizations(memory, quantization)
        for mode in (("guided", "single") if is_guided else ("single",))
    ]


def encode_ways(
    memory: StageMemory,
    frame_count: int,
    *,
    mode: EncodeMode = "encode",
    quantization: QuantizationChoice,
) -> list[Way]:
    """All ways of encoding the longest prompt, the best first; `mode` says whether audio codes take part."""
    return [
        Way(mode, key, memory.total_bytes(mode, frame_count, key))
        for key in _quantizations(memory, quantization)
    ]


def choose_dit(
    memory: StageMemory,
    budget_bytes: int,
    frame_count: int,
    item_count: int = 1,
    *,
    has_guidance: bool,
    quantization: QuantizationChoice = "auto",
) -> Choice:
    """The first way of denoising that fits.

    With guidance both halves at once come before one after the other, and each of them with the weights as
    they are before INT8, which changes the music a little.

    Args:
        memory: what the DiT takes.
        budget_bytes: what the stage may have, weights included.
        frame_count: latent frames of the song.
        item_count: songs of the batch.
        has_guidance: whether guidance is on; it has no effect where the model does not take it.
        quantization: "auto" tries both.

    Returns:
        The way that needs least where none fits.
    """
    ways = dit_ways(memory, frame_count, item_count, has_guidance=has_guidance, quantization=quantization)
    return _first_that_fits(ways, budget_bytes)


def choose_encode(
    memory: StageMemory,
    budget_bytes: int,
    frame_count: int,
    *,
    quantization: QuantizationChoice = "auto",
) -> Choice:
    """The first way of encoding the longest prompt that fits; arguments as in `choose_dit`."""
    return _first_that_fits(encode_ways(memory, frame_count, quantization=quantization), budget_bytes)


def choose_tile(memory: StageMemory, budget_bytes: int, most: int = DEFAULT_TILE_FRAMES) -> int:
    """The most latent frames, up to `most`, of a tile of a long song that fits; 0 where none does.

    Args:
        memory: what the VAE takes.
        budget_bytes: what the stage may have, weights included.
        most: frames of a tile, without its halo.
    """
    ways = tile_ways(memory, most)
    return next((tile for tile, total_bytes in ways if total_bytes <= budget_bytes), 0)


def tile_ways(memory: StageMemory, most: int) -> list[tuple[int, int]]:
    """Tiles of at most `most` latent frames to decode in, the largest first: frames, and bytes of the stage.

    Frames are without the halo, which counts in the bytes with both its sides.
    """
    halos = 2 * memory.halo_frame_count
    return [(tile, memory.total_bytes("tile", tile + halos)) for tile in tile_sizes(most)]


def encode_tile_ways(memory: StageMemory, frame_count: int, most: int) -> list[tuple[int, int]]:
    """The same to encode audio of `frame_count` latent frames in.

    The halo counts as far as the audio goes: an encode computes all that it looks at.
    """
    halos = 2 * memory.encoder_halo_frame_count
    return [
        (tile, memory.total_bytes("encode_tile", min(frame_count, tile + halos)))
        for tile in tile_sizes(min(most, frame_count))
    ]


def tile_sizes(most: int) -> list[int]:
    """Latent frames of a tile to try: `most`, then powers of two and the middles between them."""
    sizes = {size for power in range(3, most.bit_length()) for size in (2**power, 3 * 2 ** (power - 1))}
    return [most, *sorted((size for size in sizes if SMALLEST_TILE_FRAMES <= size < most), reverse=True)]


def _quantizations(memory: StageMemory, choice: QuantizationChoice) -> list[Quantization]:
    wanted: tuple[Quantization, ...] = ("none", "int8") if choice == "auto" else (choice,)
    # A stage without INT8 weights, such as the VAE, keeps them as they are.
    return [key for key in wanted if key in memory.weights_bytes] or ["none"]


def _first_that_fits(ways: list[Way], budget_bytes: int) -> Choice:
    fitting = [way for way in ways if way.total_bytes <= budget_bytes]
    way = fitting[0] if fitting else min(ways, key=lambda way: way.total_bytes)
    return Choice(way.mode, way.quantization, way.total_bytes, bool(fitting))
