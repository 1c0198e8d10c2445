"""From messages to events and a result: bits stay as they are, and a preview is never part of the song."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from acestage.errors import DataLossError, InvalidArgumentError
from acestage.generation import (
    AudioChunk,
    DecodeCost,
    Generation,
    PreviewAudio,
    PreviewCompleted,
    StageCompleted,
)
from acestage.generation_stream import GenerationStream
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.vae.v1 import vae_pb2

GAIN = 1.7093


def noise(count: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.3, size=(count, 2)).astype("<f4")


def chunk(samples: npt.NDArray[np.float32], start: int = 0) -> vae_pb2.AudioChunk:
    return vae_pb2.AudioChunk(
        start_sample=start, samples=samples.tobytes(), channel_count=2, sample_rate_hz=48_000
    )


def track(samples: npt.NDArray[np.float32]) -> pb.Track:
    return pb.Track(
        sample_count=len(samples),
        channel_count=2,
        sample_rate_hz=48_000,
        gain=GAIN,
        samples_sha256=hashlib.sha256(samples.tobytes()).digest(),
    )


def completed(samples: npt.NDArray[np.float32], **more: object) -> pb.GenerateResponse:
    return pb.GenerateResponse(completed=pb.JobCompleted(tracks=[track(samples)], **more))  # type: ignore[arg-type]


def generation(event: object) -> Generation:
    assert isinstance(event, Generation)
    return event


def test_chunks_joined_and_scaled_are_the_track_and_the_float_file_bit_by_bit(tmp_path: Path) -> None:
    samples, stream = noise(5000, 1), GenerationStream()
    chunks = []
    for start, stop in ((0, 1921), (1921, 1922), (1922, 5000)):
        event = stream.read(pb.GenerateResponse(audio=chunk(samples[start:stop], start)))
        assert isinstance(event, AudioChunk)
        chunks.append(event.samples)
    (made,) = generation(stream.read(completed(samples))).tracks
    scaled = np.concatenate(chunks) * np.float32(made.gain)
    assert scaled.dtype == np.float32
    assert scaled.tobytes() == made.audio.tobytes()
    path = made.save(tmp_path / "song.wav", bit_depth="32f")
    written, _ = soundfile.read(path, dtype="float32")
    assert written.tobytes() == made.audio.tobytes()


def test_a_track_is_saved_in_the_format_of_its_name(tmp_path: Path) -> None:
    samples, stream = noise(500, 1), GenerationStream()
    stream.read(pb.GenerateResponse(audio=chunk(samples)))
    (made,) = generation(stream.read(completed(samples))).tracks
    for name, audio_format in {"song.flac": "FLAC", "SONG.WAV": "WAV", "song": "WAV"}.items():
        assert soundfile.info(made.save(tmp_path / name)).format == audio_format
    assert soundfile.info(made.save(tmp_path / "other", audio_format="flac")).format == "FLAC"
    with pytest.raises(InvalidArgumentError, match=r"path: is .*song\.mp3; accepted: \.wav, \.flac"):
        made.save(tmp_path / "song.mp3")
    with pytest.raises(InvalidArgumentError, match=r"song\.flac, but the format is wav"):
        made.save(tmp_path / "song.flac", audio_format="wav")
    assert not (tmp_path / "song.mp3").exists()


def test_a_preview_is_told_apart_from_the_song() -> None:
    preview, song, stream = noise(100, 1), noise(300, 2), GenerationStream()
    first = stream.read(pb.GenerateResponse(preview_audio=chunk(preview)))
    assert isinstance(first, PreviewAudio)
    assert not isinstance(first, AudioChunk)
    stream.read(pb.GenerateResponse(audio=chunk(song[:200])))
    done = pb.PreviewCompleted(tracks=[track(preview)], step_count=2)
    event = stream.read(pb.GenerateResponse(preview_completed=done))
    assert isinstance(event, PreviewCompleted)
    assert event.step_count == 2
    assert np.array_equal(event.tracks[0].audio, preview * np.float32(GAIN))
    stream.read(pb.GenerateResponse(audio=chunk(song[200:], 200)))
    (made,) = generation(stream.read(completed(song))).tracks
    assert np.array_equal(made.audio, song * np.float32(GAIN))


def test_samples_that_are_not_those_that_were_sent_are_refused() -> None:
    stream = GenerationStream()
    stream.read(pb.GenerateResponse(audio=chunk(noise(10, 1))))
    with pytest.raises(DataLossError, match="track 0: 10 samples"):
        stream.read(completed(noise(10, 2)))


def test_a_track_of_which_nothing_arrived_is_refused() -> None:
    with pytest.raises(DataLossError, match="track 0: 0 samples"):
        GenerationStream().read(completed(noise(10, 1)))


def test_samples_are_hashed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        """A hash that knows how much it was given."""

        def __init__(self) -> None:
            self._digest, self.byte_count = sha256(), 0
            hashes.append(self)

        def update(self, data: bytes) -> None:
            self._digest.update(data)
            self.byte_count += len(data)

        def digest(self) -> bytes:
            return self._digest.digest()

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    sha256, hashes = hashlib.sha256, list[Counted]()
    samples, stream = noise(300, 1), GenerationStream()
    end = completed(samples)
    monkeypatch.setattr(hashlib, "sha256", Counted)
    for start in (0, 100, 200):
        stream.read(pb.GenerateResponse(audio=chunk(samples[start : start + 100], start)))
    assert hashes[0].byte_count == samples.nbytes
    stream.read(end)
    assert hashes[0].byte_count == samples.nbytes


def test_the_cost_of_the_decode_is_told_where_it_is_known() -> None:
    samples = noise(10, 1)
    costs = []
    for more in ({"decode_cost": pb.DecodeCost(tile_count=3, frame_count=250, halo_frame_count=40)}, {}):
        stream = GenerationStream()
        stream.read(pb.GenerateResponse(audio=chunk(samples)))
        costs.append(generation(stream.read(completed(samples, **more))).decode_cost)
    assert costs == [DecodeCost(3, 250, 40), None]


def test_a_stage_and_the_song_say_what_their_kernels_were() -> None:
    stream, samples = GenerationStream(), noise(10, 1)
    done = pb.StageCompleted(stage="dit", report=stage_pb2.StageReport(kernels="compiled"))
    stage = stream.read(pb.GenerateResponse(stage_completed=done))
    assert isinstance(stage, StageCompleted)
    assert stage.kernels == "compiled"
    stream.read(pb.GenerateResponse(audio=chunk(samples)))
    made = generation(stream.read(completed(samples, settings=pb.Settings(kernels="mixed"))))
    assert made.settings.to_dict()["kernels"] == "mixed"
    assert made.stages == (stage,)
