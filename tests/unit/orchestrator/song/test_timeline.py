"""Where windows begin and end, in samples and in latent frames."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.song.timeline import Span, Timeline, whole_song, with_window

MODEL = Model(latent_frame_rate_hz=25, sample_rate_hz=48_000, hop_sample_count=1920)
SOURCE = 20 * 48_000


def timeline(start_s: float | None, end_s: float | None, source: int = SOURCE) -> Timeline:
    return with_window(source, start_s, end_s, MODEL)


def test_a_song_without_a_window_is_as_long_as_its_source() -> None:
    found = whole_song(SOURCE + 1, MODEL)
    assert (found.sample_count, found.frame_count) == (SOURCE + 1, 501)
    assert found.window == found.source == Span(0, SOURCE + 1)


def test_a_window_on_frames() -> None:
    found = timeline(4.0, 8.0)
    assert found.window_frames == Span(100, 200)
    assert found.window == Span(192_000, 384_000)
    assert (found.sample_count, found.frame_count, found.source) == (SOURCE, 500, Span(0, SOURCE))


def test_a_window_between_frames_is_new_from_end_to_end_and_nothing_else_is() -> None:
    found = timeline(4.01, 8.03)
    assert found.window_frames == Span(100, 201)
    assert found.window == Span(round(4.01 * 48_000), round(8.03 * 48_000))


def test_times_that_floats_cannot_hold_mean_the_frame_that_is_meant() -> None:
    assert timeline(4.6, 9.2).window_frames == Span(115, 230)


def test_a_window_without_an_end_goes_to_the_end() -> None:
    found = timeline(19.99, None, SOURCE + 5)
    assert found.window_frames == Span(499, 501)
    assert found.window == Span(round(19.99 * 48_000), SOURCE + 5)
    assert found.sample_count == SOURCE + 5


def test_a_start_below_0_puts_whole_frames_before_the_source() -> None:
    found = timeline(-1.01, 2.0)
    assert found.source == Span(26 * 1920, 26 * 1920 + SOURCE)
    assert found.window_frames == Span(0, 76)
    assert found.window == Span(0, 76 * 1920)
    assert (found.sample_count, found.frame_count) == (26 * 1920 + SOURCE, 526)


@given(
    source=st.integers(48_000, 600 * 48_000),
    frame_count=st.integers(0, 750),
    earlier_s=st.floats(0, 0.49 / 48_000),
    end_s=st.none() | st.floats(0.001, 630),
)
@example(source=SOURCE, frame_count=0, earlier_s=1e-7, end_s=None)
def test_a_start_less_than_half_a_sample_before_a_frame_is_that_frame(
    source: int, frame_count: int, earlier_s: float, end_s: float | None
) -> None:
    start_s = -frame_count / 25
    assert timeline(start_s - earlier_s, end_s, source) == timeline(start_s, end_s, source)


def test_an_end_beyond_the_source_makes_the_song_longer() -> None:
    found = timeline(20.0, 25.01)
    assert found.source == Span(0, SOURCE)
    assert found.window_frames == Span(500, 626)
    assert found.window == Span(SOURCE, 626 * 1920)
    assert (found.sample_count, found.frame_count) == (626 * 1920, 626)


def test_a_source_lies_in_silence() -> None:
    found = timeline(-0.08, 20.04)
    audio = found.source_audio(np.ones((SOURCE, 2), np.float32))
    assert audio.shape == (503 * 1920, 2)
    assert not audio[: 2 * 1920].any()
    assert audio[2 * 1920 : 502 * 1920].all()
    assert not audio[502 * 1920 :].any()


@given(
    source=st.integers(48_000, 600 * 48_000),
    start_s=st.none() | st.floats(-30, 30),
    end_s=st.none() | st.floats(0, 630),
)
def test_windows_lie_in_the_song_and_in_their_frames(
    source: int, start_s: float | None, end_s: float | None
) -> None:
    source_s = source / 48_000
    start_s = None if start_s is None else min(start_s, source_s)
    if end_s is not None and (start_s or 0.0) >= end_s:
        return
    if end_s is None and start_s is not None and start_s >= source_s:
        return
    found = timeline(start_s, end_s, source)
    frames, window, hop = found.window_frames, found.window, 1920
    assert 0 <= frames.start < frames.stop <= found.frame_count
    assert frames.start * hop <= window.start <= window.stop <= frames.stop * hop
    assert window.stop <= found.sample_count <= found.frame_count * hop < found.sample_count + hop
    assert 0 <= found.source.start <= found.source.stop <= found.sample_count
    assert len(found.source) == source
    # Nothing is left without sound: what is not the source's is new.
    assert window.start <= found.source.stop
    assert found.source.start == 0 or window.start == 0
    assert window.stop >= found.source.start
    assert found.source.stop == found.sample_count or window.stop == found.sample_count
