"""A track with a window: the source's samples outside, decoded ones inside, no step between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from services.orchestrator.song.assembly import Assembly, Samples
from services.orchestrator.song.timeline import Timeline, whole_song, with_window

MODEL = Model(latent_frame_rate_hz=25, sample_rate_hz=48_000, hop_sample_count=1920)
SOURCE = 3 * 48_000 + 7
FADE = 480


def noise(count: int, seed: int) -> Samples:
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


def assemble(timeline: Timeline, source: Samples, decoded: Samples, chunk: int, first: int = 0) -> Samples:
    """The track, where `decoded` comes in chunks of so many samples from sample `first` on."""
    assembly = Assembly(timeline, source, 3, 48_000)
    parts: list[Samples] = []
    done = 0
    for start in range(first, len(decoded), chunk):
        samples = decoded[start : start + chunk].tobytes()
        for sent in assembly.add(AudioChunk(start_sample=start, samples=samples, channel_count=2)):
            assert (sent.item_index, sent.sample_rate_hz, sent.channel_count) == (3, 48_000, 2)
            assert sent.start_sample == done
            assert len(sent.samples) <= 1 << 20
            parts.append(np.frombuffer(sent.samples, dtype="<f4").reshape(-1, 2))
            done += len(parts[-1])
    return np.concatenate(parts)


def test_outside_of_the_window_is_the_source_and_inside_is_new() -> None:
    timeline = with_window(SOURCE, 1.0, 2.0, MODEL)
    source, decoded = noise(SOURCE, 1), noise(timeline.frame_count * 1920, 2)
    track = assemble(timeline, source, decoded, 10_000)
    assert len(track) == SOURCE
    assert np.array_equal(track[:48_000], source[:48_000])
    assert np.array_equal(track[96_000:], source[96_000:])
    assert np.array_equal(track[48_000 + FADE : 96_000 - FADE], decoded[48_000 + FADE : 96_000 - FADE])


def test_edges_are_faded_within_the_window() -> None:
    timeline = with_window(SOURCE, 1.0, 2.0, MODEL)
    source = np.zeros((SOURCE, 2), np.float32)
    decoded = np.ones((timeline.frame_count * 1920, 2), np.float32)
    track = assemble(timeline, source, decoded, 1920)[:, 0]
    assert np.abs(np.diff(track)).max() < 1.1 / FADE
    assert 0 < track[48_000] < 0.01
    assert 0 < track[95_999] < 0.01


def test_a_song_that_goes_beyond_both_ends_of_its_source_is_all_new() -> None:
    timeline = with_window(SOURCE, -0.5, 4.0, MODEL)
    source, decoded = noise(SOURCE, 1), noise(timeline.frame_count * 1920, 2)
    assert np.array_equal(assemble(timeline, source, decoded, 7_777), decoded)


def test_a_continuation_begins_where_the_source_ends() -> None:
    timeline = with_window(SOURCE, SOURCE / 48_000, 4.0, MODEL)
    source, decoded = noise(SOURCE, 1), noise(timeline.frame_count * 1920, 2)
    track = assemble(timeline, source, decoded, 7_777)
    assert np.array_equal(track[:SOURCE], source)
    assert np.array_equal(track[SOURCE + FADE :], decoded[SOURCE + FADE :])


@pytest.mark.parametrize("chunk", [100, 1920, 48_000, 500_000])
@pytest.mark.parametrize(
    ("start_s", "end_s"), [(SOURCE / 48_000, 4.0), (SOURCE / 48_000 - 0.005, 4.0), (-1.0, 0.0), (-1.0, 0.005)]
)
def test_there_is_no_step_where_the_song_goes_on_beyond_its_source(
    start_s: float, end_s: float, chunk: int
) -> None:
    timeline = with_window(SOURCE, start_s, end_s, MODEL)
    source = np.full((SOURCE, 2), 0.5, np.float32)
    decoded = np.zeros((timeline.frame_count * 1920, 2), np.float32)
    track = assemble(timeline, source, decoded, chunk)
    inside = track[timeline.source.start : timeline.source.stop]
    assert len(track) == timeline.sample_count
    assert np.abs(np.diff(track[:, 0])).max() < 0.55 / FADE
    assert np.array_equal(np.unique(inside[: FADE // 3]), [0.5]) or start_s < 0
    assert not track[-FADE:].any() or start_s < 0
    assert track[:FADE].any() == (start_s > 0)


def test_a_song_that_is_all_new_is_cut_to_the_length_of_its_source() -> None:
    timeline = whole_song(SOURCE, MODEL)
    decoded = noise(timeline.frame_count * 1920, 2)
    assert np.array_equal(assemble(timeline, noise(SOURCE, 1), decoded, 10_000), decoded[:SOURCE])


@pytest.mark.parametrize("first", [48_000, 47_000])
def test_only_the_window_need_be_decoded(first: int) -> None:
    timeline = with_window(SOURCE, 1.0, 2.0, MODEL)
    source, decoded = noise(SOURCE, 1), noise(timeline.frame_count * 1920, 2)
    whole = assemble(timeline, source, decoded, 10_000)
    assert np.array_equal(assemble(timeline, source, decoded[:97_000], 10_000, first), whole)


@given(start_s=st.floats(-1, 3), end_s=st.floats(0, 4), chunk=st.integers(1_000, 300_000))
def test_a_track_does_not_depend_on_the_chunks_it_comes_in(start_s: float, end_s: float, chunk: int) -> None:
    if start_s >= end_s:
        return
    timeline = with_window(SOURCE, start_s, end_s, MODEL)
    if not len(timeline.window):
        return
    source, decoded = noise(SOURCE, 1), noise(timeline.frame_count * 1920, 2)
    track = assemble(timeline, source, decoded, chunk)
    assert len(track) == timeline.sample_count
    assert np.array_equal(track, assemble(timeline, source, decoded, 48_000))
