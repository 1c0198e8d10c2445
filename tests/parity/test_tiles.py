"""Tiled decoding gives the audio of an untiled decode, at the real strides, for any tile size."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_decoder
from services.vae.engine import DecodeStart, VaeEngine

FRAMES = 70


@functools.cache
def engine() -> VaeEngine:
    return VaeEngine(load_decoder(open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))))


def noise() -> torch.Tensor:
    return torch.randn(2, FRAMES, 8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def decode(tile_frame_count: int) -> torch.Tensor:
    """[items, samples, channels]"""
    items: list[list[torch.Tensor]] = [[], []]
    for tile in engine().decode(noise(), tile_frame_count):
        items[tile.item_index].append(tile.audio)
    return torch.stack([torch.cat(item) for item in items])


@functools.cache
def untiled() -> torch.Tensor:
    with torch.no_grad():
        audio: torch.Tensor = engine().decoder(noise().transpose(1, 2)).transpose(1, 2)
    return audio


@pytest.mark.parametrize("tile_frame_count", [1, 5, 9, 16, 33, 64, 69, 70, 500])
def test_every_tile_size_gives_the_untiled_audio(tile_frame_count: int) -> None:
    assert untiled().shape == (2, FRAMES * 1920, 2)
    assert (decode(tile_frame_count) - untiled()).abs().max() < 2e-6


@pytest.mark.parametrize("tile_frame_count", [5, 16, 23, 500])
@pytest.mark.parametrize("interrupted_after", [0, 1, 3, 5, 6, 9])
@torch.no_grad()
def test_a_decode_taken_up_again_gives_the_same_audio(interrupted_after: int, tile_frame_count: int) -> None:
    """The first decode has five tiles an item."""
    items: list[list[torch.Tensor]] = [[], []]
    start = DecodeStart()
    for tile in itertools.islice(engine().decode(noise(), 16), interrupted_after):
        items[tile.item_index].append(tile.audio)
        start = DecodeStart(tile.item_index, (tile.start_sample + len(tile.audio)) // 1920)
    rest = list(engine().decode(noise(), tile_frame_count, start))
    for tile in rest:
        items[tile.item_index].append(tile.audio)
    assert [tile.tile for tile in rest] == list(range(1, rest[0].tile_count + 1))
    assert (torch.stack([torch.cat(item) for item in items]) - untiled()).abs().max() < 2e-6


@torch.no_grad()
def test_a_decode_taken_up_at_the_very_end_has_nothing_left() -> None:
    assert list(engine().decode(noise(), 16, DecodeStart(1, FRAMES))) == []


def test_a_narrower_halo_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine(), "halo_frame_count", engine().halo_frame_count - 2)
    assert (decode(16) - untiled()).abs().max() > 1e-5
