"""Tiles give what an untiled pass gives, at the real strides, for any tile size, length and batch.

Both passes compute every result from the same inputs; what differs is the order in which kernels add up, for
they choose it by the shape. Distances are relative to the largest magnitude of the untiled result. In float32
the two were at most 7e-7 apart; in float64 a few units in the last place, which shows that nothing but
rounding is left.

The engine computes on rows, the modules of diffusers with the channels first: two orders of adding up,
whether there are tiles or not. In float32 either is up to 1.0e-6 away from the result in float64, so they are
up to 1.3e-6 apart. That the engine's results are those of diffusers is therefore told by float64. The blocks
of an untiled decode are computed in pieces as well, which begin elsewhere than those of tiles.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_decoder, load_encoder
from services.runtime.weights.placement import place
from services.vae.engine import DecodeStart, VaeEngine
from services.vae.oobleck import decode_rows

HOP, CHANNELS = 1920, 8
FRAMES = 70
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-13}
"""Between two passes of the engine."""

ENCODER_BOUNDS = {torch.float32: 2e-6, torch.float64: 1e-13}
"""Between a pass of the engine's encoder and one of that of diffusers in float64."""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def engine(dtype: torch.dtype = torch.float32) -> VaeEngine:
    checkpoint = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
    made = VaeEngine(load_decoder(checkpoint), load_encoder(checkpoint))
    made.place(torch.device("cpu"), dtype)
    return made


@functools.cache
def decoder_of_diffusers(dtype: torch.dtype) -> torch.nn.Module:
    decoder = load_decoder(open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints")))
    place(decoder, torch.device("cpu"), dtype)
    return decoder


@functools.cache
def encoder_of_diffusers() -> torch.nn.Module:
    encoder = load_encoder(open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints")))
    place(encoder, torch.device("cpu"), torch.float64)
    return encoder


@functools.cache
def noise(items: int, frames: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(items, frames, CHANNELS, generator=generator).to(dtype)


@functools.cache
def sound(frames: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return (0.3 * torch.randn(1, frames * HOP, 2, generator=generator)).to(dtype)


@functools.cache
@torch.no_grad()
def untiled_audio(items: int = 2, frames: int = FRAMES, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[items, samples, channels]"""
    decoder = engine(dtype).decoder
    return torch.stack([decode_rows(decoder, item, range(frames)) for item in noise(items, frames, dtype)])


@functools.cache
@torch.no_grad()
def audio_of_diffusers(items: int, frames: int, dtype: torch.dtype) -> torch.Tensor:
    """[items, samples, channels]"""
    decoder = decoder_of_diffusers(dtype)
    alone = [decoder(item[None].transpose(1, 2)).transpose(1, 2) for item in noise(items, frames, dtype)]
    return torch.cat(alone)


@functools.cache
def untiled_latents(frames: int = FRAMES, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return encode(frames, frames, dtype)


@torch.no_grad()
def decode(
    tile_frame_count: int, items: int = 2, frames: int = FRAMES, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """[items, samples, channels]"""
    found: list[list[torch.Tensor]] = [[] for _ in range(items)]
    for tile in engine(dtype).decode(noise(items, frames, dtype), tile_frame_count):
        assert tile.start_sample == sum(map(len, found[tile.item_index]))
        found[tile.item_index].append(tile.audio)
    return torch.stack([torch.cat(item) for item in found])


@torch.no_grad()
def encode(
    tile_frame_count: int, frames: int = FRAMES, dtype: torch.dtype = torch.float32, start_frame: int = 0
) -> torch.Tensor:
    """[1, frames, channels]"""
    tiles = engine(dtype).encode(sound(frames, dtype), tile_frame_count, start_frame)
    return torch.cat([tile.latents for tile in tiles], dim=1)


def assert_audio_is_that_of_diffusers(audio: torch.Tensor) -> None:
    """It is as far from float64 as diffusers in the same type, and by what two passes may differ further."""
    items, samples, _ = audio.shape
    exact, rounded = (audio_of_diffusers(items, samples // HOP, t) for t in (torch.float64, audio.dtype))
    assert distance(audio, exact) < BOUNDS[audio.dtype] + distance(rounded, exact)


def distance(found: torch.Tensor, untiled: torch.Tensor) -> float:
    assert found.shape == untiled.shape
    return float((found - untiled).abs().max() / untiled.abs().max())


@pytest.mark.parametrize("dtype", BOUNDS)
@given(items=st.integers(1, 3), frames=st.integers(1, 45), tile_frame_count=st.integers(1, 50))
@settings(max_examples=8, derandomize=True)
def test_a_decode_in_tiles_is_the_untiled_one(
    dtype: torch.dtype, items: int, frames: int, tile_frame_count: int
) -> None:
    found = decode(tile_frame_count, items, frames, dtype)
    assert distance(found, untiled_audio(items, frames, dtype)) < BOUNDS[dtype]
    assert_audio_is_that_of_diffusers(found)


@pytest.mark.parametrize("dtype", BOUNDS)
@given(frames=st.integers(1, 30), tile_frame_count=st.integers(1, 32))
@settings(max_examples=6, derandomize=True)
def test_an_encode_in_tiles_is_the_untiled_one(
    dtype: torch.dtype, frames: int, tile_frame_count: int
) -> None:
    assert distance(encode(tile_frame_count, frames, dtype), untiled_latents(frames, dtype)) < BOUNDS[dtype]


@torch.no_grad()
def test_the_encoder_is_the_one_of_diffusers() -> None:
    audio = sound(FRAMES, torch.float64)
    mean = encoder_of_diffusers()(audio.transpose(1, 2)).chunk(2, dim=1)[0].transpose(1, 2)
    for dtype, bound in ENCODER_BOUNDS.items():
        assert distance(untiled_latents(FRAMES, dtype), mean) < bound


@pytest.mark.parametrize("tile_frame_count", [5, 33, 69, 70, 0])
def test_every_kind_of_tile_of_a_longer_song(tile_frame_count: int) -> None:
    assert untiled_audio().shape == (2, FRAMES * HOP, 2)
    assert distance(decode(tile_frame_count), untiled_audio()) < BOUNDS[torch.float32]
    assert_audio_is_that_of_diffusers(decode(tile_frame_count))
    assert distance(encode(tile_frame_count), untiled_latents()) < BOUNDS[torch.float32]


@given(st.data())
@settings(max_examples=12, derandomize=True)
@torch.no_grad()
def test_a_range_is_decoded_alone_and_is_the_same(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, FRAMES - 1))
    stop = data.draw(st.integers(start + 1, FRAMES))
    items: list[list[torch.Tensor]] = [[], []]
    for tile in engine().decode(noise(2, FRAMES, torch.float32), 24, frames=range(start, stop)):
        assert tile.start_sample == start * HOP + sum(map(len, items[tile.item_index]))
        items[tile.item_index].append(tile.audio)
    found = torch.stack([torch.cat(item) for item in items])
    wanted = untiled_audio()[:, start * HOP : stop * HOP]
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() / untiled_audio().abs().max() < BOUNDS[torch.float32]


@pytest.mark.parametrize("tile_frame_count", [5, 16, 500])
@pytest.mark.parametrize("interrupted_after", [0, 1, 4, 5, 6, 9])
@torch.no_grad()
def test_a_decode_taken_up_again_gives_the_same_audio(interrupted_after: int, tile_frame_count: int) -> None:
    """The first decode has five tiles an item."""
    items: list[list[torch.Tensor]] = [[], []]
    start = DecodeStart()
    latents = noise(2, FRAMES, torch.float32)
    for tile in itertools.islice(engine().decode(latents, 16), interrupted_after):
        items[tile.item_index].append(tile.audio)
        start = DecodeStart(tile.item_index, tile.frames.stop)
    rest = list(engine().decode(latents, tile_frame_count, start))
    for tile in rest:
        items[tile.item_index].append(tile.audio)
    assert [tile.tile for tile in rest] == list(range(1, rest[0].tile_count + 1))
    found = torch.stack([torch.cat(item) for item in items])
    assert distance(found, untiled_audio()) < BOUNDS[torch.float32]


@torch.no_grad()
def test_a_decode_taken_up_at_the_very_end_has_nothing_left() -> None:
    assert list(engine().decode(noise(2, FRAMES, torch.float32), 16, DecodeStart(1, FRAMES))) == []


@torch.no_grad()
def test_every_item_has_small_tiles_first_unless_it_is_taken_up_again() -> None:
    latents = noise(2, FRAMES, torch.float32)

    def sizes(*args: DecodeStart, frames: range | None = None) -> list[int]:
        return [tile.frames.frame_count for tile in engine().decode(latents, 40, *args, frames=frames)]

    assert sizes() == [16, 32, 22] * 2
    assert sizes(frames=range(20, 60)) == [16, 24] * 2
    assert sizes(DecodeStart(0, 16)) == [40, 14, 16, 32, 22]
    assert sizes(DecodeStart(1, 0)) == [16, 32, 22]
    assert sizes(DecodeStart(1, 30)) == [40]


@torch.no_grad()
def test_an_encode_can_be_taken_up_again() -> None:
    assert distance(encode(16, start_frame=23), untiled_latents()[:, 23:]) < 2 * BOUNDS[torch.float32]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_narrower_halo_of_the_decoder_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    wide = engine(torch.float64)
    monkeypatch.setattr(wide, "halo_frame_count", wide.halo_frame_count - missing)
    found = decode(16, 2, FRAMES, torch.float64)
    assert distance(found, untiled_audio(2, FRAMES, torch.float64)) > 1e4 * BOUNDS[torch.float64]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_narrower_halo_of_the_encoder_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    wide = engine(torch.float64)
    monkeypatch.setattr(wide, "encoder_halo_frame_count", wide.encoder_halo_frame_count - missing)
    found = encode(16, FRAMES, torch.float64)
    assert distance(found, untiled_latents(FRAMES, torch.float64)) > 1e4 * BOUNDS[torch.float64]
