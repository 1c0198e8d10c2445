"""What the VAE sends must be the song, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from acestage.errors import InternalError
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from services.orchestrator.song import requests
from services.orchestrator.song.track_writer import TrackWriter

HOP = 1920
MODEL = Model(name="m", latent_frame_rate_hz=25, sample_rate_hz=48_000, hop_sample_count=HOP)


def writer_of(request: GenerateRequest, source_sample_count: int | None = None) -> TrackWriter:
    settings = requests.resolve(request, MODEL, source_sample_count=source_sample_count)
    source = None if source_sample_count is None else np.zeros((source_sample_count, 2), np.float32)
    return TrackWriter(settings, source, MODEL, settings.frame_count(MODEL))


def two_takes() -> TrackWriter:
    """Of ten frames each."""
    return writer_of(GenerateRequest(caption="x", duration_s=0.4, seeds=[1, 2]))


def chunk(
    item_index: int,
    first_frame: int,
    stop_frame: int,
    *,
    channel_count: int = 2,
    rate_hz: int = 48_000,
    odd_bytes: int = 0,
) -> AudioChunk:
    return AudioChunk(
        item_index=item_index,
        start_sample=first_frame * HOP,
        samples=bytes((stop_frame - first_frame) * HOP * 4 * channel_count + odd_bytes),
        channel_count=channel_count,
        sample_rate_hz=rate_hz,
    )


def test_takes_that_come_in_order_are_tracks() -> None:
    writer = two_takes()
    for decoded in (chunk(0, 0, 4), chunk(1, 0, 10), chunk(0, 4, 10)):
        assert writer.add(decoded) == [decoded]
    assert [track.sample_count for track in writer.tracks()] == [10 * HOP] * 2


def test_of_a_repainted_song_the_window_is_all_that_must_come() -> None:
    repaint = GenerateRequest(
        caption="x", task="repaint", source_id="a", repaint_start_s=1.0, repaint_end_s=2.0
    )
    writer = writer_of(repaint, source_sample_count=3 * 48_000)
    wanted = writer.wanted_frames
    assert wanted is not None
    assert wanted.start > 0
    writer.add(chunk(0, wanted.start, wanted.stop))
    assert [track.sample_count for track in writer.tracks()] == [3 * 48_000]


@pytest.mark.parametrize(
    "foreign",
    [
        chunk(2, 0, 4),
        chunk(-1, 0, 4),
        chunk(0, 0, 4),
        chunk(0, 5, 6),
        chunk(0, 4, 11),
        chunk(0, 4, 5, channel_count=1),
        chunk(0, 4, 5, channel_count=0),
        chunk(0, 4, 5, rate_hz=44_100),
        chunk(0, 4, 5, odd_bytes=1),
    ],
    ids=["no such take", "negative", "again", "gap", "too long", "mono", "no channels", "rate", "odd bytes"],
)
def test_audio_that_is_not_what_comes_next_is_the_fault_of_the_vae(foreign: AudioChunk) -> None:
    writer = two_takes()
    writer.add(chunk(0, 0, 4))
    with pytest.raises(InternalError, match=r"^vae gave a wrong answer: it sent") as caught:
        writer.add(foreign)
    assert caught.value.metadata == {"stage": "vae"}


def test_a_take_whose_last_samples_are_missing_is_no_track() -> None:
    writer = two_takes()
    writer.add(chunk(0, 0, 10))
    writer.add(chunk(1, 0, 9))
    with pytest.raises(InternalError, match=f"item 1 ended at sample {9 * HOP} of {10 * HOP}"):
        writer.tracks()
