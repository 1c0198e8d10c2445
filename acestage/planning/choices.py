"""How a stage works within a number of bytes: the plain way where it fits, else a way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from acestage.planning.stage_memory import Quantization, StageMemory
from acestage.settings import QuantizationChoice

DEFAULT_TILE_FRAMES = 128
"""Latent frames of a tile of the VAE where there is room: larger ones are hardly faster."""
_TILE_STEP = 16
SMALLEST_TILE_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """A way of working, and whether it fits.

    Attributes:
        mode: as in `StageMemory.activations`.
        quantization: of the weights.
        total_bytes: that the stage needs.
        fits: whether there are so many.
    """

    mode: str
    quantization: Quantization
    total_bytes: int
    fits: bool


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
        memory: of the DiT.
        budget_bytes: that the stage may have, weights included.
        frame_count: of the song.
        item_count: songs of the batch.
        has_guidance: whether guidance is on; it has no effect where the model does not take it.
        quantization: "auto" tries both.

    Returns:
        The way that needs least where none fits.
    """
    is_guided = has_guidance and ("guided", "none") in memory.activations
    modes = ("guided", "single") if is_guided else ("single",)
    ways = [(mode, key) for key in _quantizations(memory, quantization) for mode in modes]
    return _first_that_fits(memory, budget_bytes, frame_count, item_count, ways)


def choose_encode(
    memory: StageMemory,
    budget_bytes: int,
    frame_count: int,
    *,
    quantization: QuantizationChoice = "auto",
) -> Choice:
    """The first way of encoding the longest prompt that fits; arguments as in `choose_dit`."""
    ways = [("encode", key) for key in _quantizations(memory, quantization)]
    return _first_that_fits(memory, budget_bytes, frame_count, 1, ways)


def choose_tile(memory: StageMemory, budget_bytes: int, most: int = DEFAULT_TILE_FRAMES) -> int:
    """The most latent frames, up to `most`, of a tile of the VAE that fits; 0 where none does.

    Args:
        memory: of the VAE.
        budget_bytes: that the stage may have, weights included.
        most: frames of a tile, without its halo.
    """
    for frames in _tiles(most):
        if tile_bytes(memory, frames) <= budget_bytes:
            return frames
    return 0


def tile_bytes(memory: StageMemory, tile_frame_count: int) -> int:
    """Bytes that the VAE needs to decode tiles of so many frames, with their halos."""
    return memory.total_bytes("tile", tile_frame_count + 2 * memory.halo_frame_count)


def _tiles(most: int) -> Iterator[int]:
    """Sizes to try: `most`, then multiples of a step, then the smallest that is worth its halo."""
    yield most
    yield from range((most - 1) // _TILE_STEP * _TILE_STEP, 0, -_TILE_STEP)
    if most > SMALLEST_TILE_FRAMES:
        yield SMALLEST_TILE_FRAMES


def _quantizations(memory: StageMemory, choice: QuantizationChoice) -> list[Quantization]:
    wanted: tuple[Quantization, ...] = ("none", "int8") if choice == "auto" else (choice,)
    # A stage without INT8 weights, such as the VAE, keeps them as they are.
    return [key for key in wanted if key in memory.weights_bytes] or ["none"]


def _first_that_fits(
    memory: StageMemory,
    budget_bytes: int,
    frame_count: int,
    item_count: int,
    ways: list[tuple[str, Quantization]],
) -> Choice:
    choices = []
    for mode, quantization in ways:
        total_bytes = memory.total_bytes(mode, frame_count, quantization, item_count)
        choice = Choice(mode, quantization, total_bytes, total_bytes <= budget_bytes)
        if choice.fits:
            return choice
        choices.append(choice)
    return min(choices, key=lambda choice: choice.total_bytes)
