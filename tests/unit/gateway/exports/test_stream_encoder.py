"""Streams play while they grow, sound like their source, and do not depend on how it was cut."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acestage.errors import InvalidArgumentError
from services.gateway.exports.codec import Codec, CodecWriter, Container
from services.gateway.exports.formats import ExportFormat, encode_a_tone, parse_format, usable_formats
from services.gateway.exports.stream_encoder import StreamEncoder
from tests.unit.gateway.exports.exported_audio import RATE_HZ, heard, loudest_hz, two_tones

# What a decoder may add that is told nothing of the codec's delay: a frame at either end, and its look-ahead.
MOST_EXTRA = {ExportFormat.mp3: 2 * 1152 + 529, ExportFormat.aac: 2 * 1024}
NO_FAULTS = dict.fromkeys(ExportFormat, "")


def encoded(audio_format: ExportFormat, *pieces: np.ndarray) -> bytes:
    with StreamEncoder(audio_format) as encoder:
        return b"".join([*map(encoder.encode, pieces), encoder.finish()])


def read_back(stream: bytes, sample_count: int) -> np.ndarray:
    """By soundfile; by libavcodec for FLAC, whose stream does not say how long it is, as soundfile asks."""
    if stream.startswith(b"fLaC"):
        return heard(stream)[:sample_count].astype(np.float64)
    samples: np.ndarray = soundfile.read(io.BytesIO(stream), sample_count, dtype="float64")[0]
    return samples


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_a_stream_sounds_like_its_source(audio_format: ExportFormat) -> None:
    source = two_tones(RATE_HZ + 123)
    sound = heard(encoded(audio_format, source))
    assert 0 <= len(sound) - len(source) <= MOST_EXTRA.get(audio_format, 0)
    middle = slice(RATE_HZ // 4, 3 * RATE_HZ // 4)
    rms = [np.sqrt(np.square(samples[middle]).mean(axis=0)) for samples in (sound, source)]
    assert rms[0] == pytest.approx(rms[1], rel=0.02)
    assert loudest_hz(sound[middle]) == pytest.approx([440.0, 1_000.0], abs=2.0)


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_how_the_source_is_cut_does_not_matter(audio_format: ExportFormat) -> None:
    source = two_tones(20_000)
    pieces = np.split(source, [1, 2, 1_153, 1_153, 4_000, 11_111, 19_999])
    assert encoded(audio_format, *pieces) == encoded(audio_format, source)


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_what_has_come_out_can_be_played_before_the_end(audio_format: ExportFormat) -> None:
    with StreamEncoder(audio_format) as encoder:
        grown = encoder.encode(two_tones(RATE_HZ // 2))
        assert len(heard(grown)) >= RATE_HZ // 4


def test_of_the_same_samples_a_stream_of_mp3_has_other_frames_than_a_file(tmp_path: Path) -> None:
    """It is searched less."""
    audio_format = ExportFormat.mp3
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (RATE_HZ, 2)).astype(np.float32)
    made = []
    for codec in (audio_format.stream_codec, audio_format.codec):
        path = tmp_path / f"{len(made)}.mp3"
        writer = CodecWriter(path, codec, audio_format.stream_container)
        writer.write(noise)
        writer.close()
        made.append(path.read_bytes())
    assert len(made[0]) == len(made[1])
    assert made[0] != made[1]
    assert encoded(audio_format, noise) == made[0]


def test_lossless_streams_are_the_source() -> None:
    source = np.random.default_rng(1).uniform(-1, 1, (10_000, 2)).astype(np.float32)
    read = {
        audio_format: read_back(encoded(audio_format, source), len(source))
        for audio_format in (ExportFormat.wav16, ExportFormat.wav24, ExportFormat.wav32, ExportFormat.flac)
    }
    assert np.array_equal(read[ExportFormat.wav32].astype(np.float32), source)
    assert np.array_equal(read[ExportFormat.wav16], np.minimum(np.rint(source * 2.0**15), 2**15 - 1) / 2**15)
    rounded = np.minimum(np.rint(source.astype(np.float64) * 2**23), 2**23 - 1) / 2**23
    assert np.array_equal(read[ExportFormat.wav24], rounded)
    assert np.array_equal(read[ExportFormat.flac], rounded)


@pytest.mark.parametrize(
    ("audio_format", "bits"), [(ExportFormat.wav16, 16), (ExportFormat.wav24, 24), (ExportFormat.flac, 24)]
)
def test_integers_clip_what_is_too_loud(audio_format: ExportFormat, bits: int) -> None:
    source = np.array([[1.0, -1.0], [3e38, -3e38], [1.5, -1.0001]], np.float32).repeat(100, axis=0)
    read = read_back(encoded(audio_format, source), len(source))
    assert np.array_equal(read, np.tile([1 - 2.0 ** (1 - bits), -1.0], (300, 1)))


def test_floats_keep_what_is_too_loud() -> None:
    source = np.full((10, 2), 3e38, np.float32)
    assert np.array_equal(
        soundfile.read(io.BytesIO(encoded(ExportFormat.wav32, source)), dtype="float32")[0], source
    )


def test_a_wav_stream_says_until_the_end() -> None:
    stream = encoded(ExportFormat.wav16, two_tones(10))
    assert struct.unpack_from("<4sI4s", stream) == (b"RIFF", 0xFFFFFFFF, b"WAVE")
    assert struct.unpack_from("<I", stream, stream.index(b"data") + 4) == (0xFFFFFFFF,)


@pytest.mark.parametrize("audio_format", ExportFormat)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_numbers_are_refused(audio_format: ExportFormat, value: float) -> None:
    with (
        StreamEncoder(audio_format) as encoder,
        pytest.raises(InvalidArgumentError, match=r"samples: .*finite"),
    ):
        encoder.encode(np.full((10, 2), value, np.float32))


@pytest.mark.parametrize(
    "samples", [np.zeros((10, 1), np.float32), np.zeros(10, np.float32), np.zeros((10, 2))]
)
def test_samples_of_another_kind_are_refused(samples: np.ndarray) -> None:
    with (
        StreamEncoder(ExportFormat.mp3) as encoder,
        pytest.raises(InvalidArgumentError, match="samples: are"),
    ):
        encoder.encode(samples)


@pytest.mark.parametrize(
    ("text", "audio_format"), [("MP3", "mp3"), (" Wav ", "wav16"), ("wav32", "wav32"), ("AAC", "aac")]
)
def test_formats_are_known_in_any_case(text: str, audio_format: str) -> None:
    assert parse_format(text, NO_FAULTS) == ExportFormat(audio_format)


def test_an_unknown_format_names_the_field_and_what_is_accepted() -> None:
    with pytest.raises(
        InvalidArgumentError, match="format: is 'ogg'; accepted: aac, flac, mp3, opus, wav, wav16"
    ):
        parse_format("ogg", NO_FAULTS, "format")


def test_every_encoder_works_here() -> None:
    assert usable_formats() == NO_FAULTS


def test_a_missing_encoder_is_told_apart() -> None:
    def without_opus(codec: Codec, container: Container) -> int:
        is_opus = codec.encoder == "libopus"
        return encode_a_tone(Codec("libabsent", "float", "flt") if is_opus else codec, container)

    faults = usable_formats(without_opus)
    with pytest.raises(InvalidArgumentError, match=r"is 'opus', but .*; accepted: mp3, .*, aac$"):
        parse_format("Opus", faults)
    assert "libopus does not work here" in faults.pop(ExportFormat.opus)
    assert set(faults.values()) == {""}
