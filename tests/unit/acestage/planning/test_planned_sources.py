"""A song that fits can be made from a source, too: covers and source encodes need less than the DiT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestage.checkpoints import Checkpoint, open_checkpoint
from acestage.planning import StageMemory, Wishes, encode_tile_ways, encode_ways, make_plan
from tests.published_workers import architecture, measured

STAGES = ("text_encoder", "dit", "vae")


def checkpoint(model: str) -> Checkpoint:
    if model == "tiny-turbo":
        return open_checkpoint(model, checkpoints_dir=Path("checkpoints"))
    return architecture(model)


def source_fits(stages: dict[str, StageMemory], device_bytes: int, frames: int) -> bool:
    codes = encode_ways(stages["text_encoder"], frames, mode="codes", quantization="auto")
    tiles = encode_tile_ways(stages["vae"], frames, 128)
    return (
        min(way.total_bytes for way in codes) <= device_bytes
        and min(vram_bytes for _, vram_bytes in tiles) <= device_bytes
    )


@pytest.mark.parametrize("model", ["turbo", "base", "tiny-turbo"])
def test_where_a_song_fits_its_cover_and_the_encode_of_its_source_fit(model: str) -> None:
    opened = checkpoint(model)
    stages = {stage: measured(stage, opened, torch.bfloat16, None) for stage in STAGES}
    for duration_s in (1, 10, 60, 180, 600):
        # The smallest device that the song fits; what fits there fits all larger ones.
        least = least_bytes(stages, duration_s)
        assert source_fits(stages, least, 25 * duration_s), (duration_s, least)


def least_bytes(stages: dict[str, StageMemory], duration_s: int) -> int:
    """Of a device on which the song fits."""
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        fits = make_plan(stages, middle, duration_s, wishes=Wishes("bfloat16")).fits
        low, high = (low, middle) if fits else (middle, high)
    return high
