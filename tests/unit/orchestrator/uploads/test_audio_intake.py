"""Files of every kind become 48 kHz stereo of the same frequency, level and length; others are refused."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from acestage.errors import InvalidArgumentError
from services.orchestrator.uploads.audio_facts import AudioFacts, RawFormat
from services.orchestrator.uploads.audio_intake import take_in
from services.orchestrator.uploads.audio_mixing import weights
from tests.unit.audio_files import Samples, encoded, tone


def taken_in(
    data: bytes, folder: Path, raw: RawFormat | None = None, name: str = "x"
) -> tuple[AudioFacts, Samples]:
    """The facts and the samples [count, 2] that come of `data`."""
    path = folder / name
    path.write_bytes(data)
    destination = io.BytesIO()
    facts = take_in(path, raw, destination)
    samples = np.frombuffer(destination.getvalue(), "<f4").reshape(-1, 2)
    assert facts.sample_count == len(samples)
    return facts, samples


def refusal(data: bytes, folder: Path, raw: RawFormat | None = None) -> str:
    """The one violation that `data` is refused with, as "field: description"."""
    with pytest.raises(InvalidArgumentError) as caught:
        taken_in(data, folder, raw)
    (violation,) = caught.value.violations
    return f"{violation.field}: {violation.description}"


def fitted(channel: Samples, frequency_hz: float) -> tuple[float, float]:
    """The level of a sine of that frequency in the middle of `channel`, and the RMS of what is left of it."""
    middle = channel[4_800:-4_800].astype(np.float64)
    angles = 2 * np.pi * frequency_hz * np.arange(len(middle)) / 48_000
    basis = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    found, *_ = np.linalg.lstsq(basis, middle, rcond=None)
    rest = middle - basis @ found
    return float(np.hypot(*found)), float(np.sqrt(np.mean(rest**2)))


@pytest.mark.parametrize("sample_rate_hz", [4_000, 8_000, 11_025, 44_100, 48_000, 96_000, 384_000])
def test_a_sine_keeps_frequency_level_and_length_at_any_rate(sample_rate_hz: int, tmp_path: Path) -> None:
    original = tone(1.5, sample_rate_hz, 0.5, 0.25)
    facts, samples = taken_in(encoded(original, sample_rate_hz, "WAV", "FLOAT"), tmp_path)
    assert facts.sample_count == pytest.approx(len(original) * 48_000 / sample_rate_hz, abs=1)
    assert facts.original_sample_rate_hz == sample_rate_hz
    for channel, level in zip(samples.T, (0.5, 0.25), strict=True):
        found, rest = fitted(channel, 440)
        assert found == pytest.approx(level, rel=1e-4)
        assert rest < 1e-5
    assert facts.rms == pytest.approx(np.sqrt((0.5**2 + 0.25**2) / 4), rel=2e-3)


@pytest.mark.parametrize(
    ("audio_format", "subtype"),
    [
        *[("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
        *[("WAV", subtype) for subtype in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")],
        *[("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
        *[("AIFF", "PCM_24"), ("AU", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("RF64", "PCM_16")],
    ],
)
def test_every_format_keeps_the_order_and_the_level_of_channels(
    audio_format: str, subtype: str | None, tmp_path: Path
) -> None:
    data = encoded(tone(1.5, 48_000, 0.5, 0.1), 48_000, audio_format, subtype)
    facts, samples = taken_in(data, tmp_path)
    assert facts.original_format.startswith(audio_format)
    assert facts.original_channel_count == 2
    assert facts.duration_s == pytest.approx(1.5, abs=0.05)
    for channel, level in zip(samples.T, (0.5, 0.1), strict=True):
        found, rest = fitted(channel, 440)
        assert found == pytest.approx(level, rel=0.03)
        assert rest < 0.01
    assert not facts.warnings


def test_lossless_stereo_at_48_khz_is_taken_as_it_is(tmp_path: Path) -> None:
    original = tone(1.0, 48_000, 0.5, -0.3)
    facts, samples = taken_in(encoded(original, 48_000, "WAV", "FLOAT"), tmp_path)
    assert np.array_equal(samples, original)
    assert facts.peak == np.abs(original).max()
    assert facts.audio_id == taken_in(original.tobytes(), tmp_path, RawFormat(48_000, 2))[0].audio_id


def test_mono_goes_to_both_channels(tmp_path: Path) -> None:
    original = tone(1.0, 48_000, 0.5)
    _, samples = taken_in(encoded(original, 48_000, "WAV", "FLOAT"), tmp_path)
    assert np.array_equal(samples, np.repeat(original, 2, axis=1))


@pytest.mark.parametrize("channel_count", [3, 4, 6, 8, 16])
def test_more_channels_are_mixed_down(channel_count: int, tmp_path: Path) -> None:
    original = np.random.default_rng(1).uniform(-1, 1, (48_000, channel_count)).astype(np.float32)
    facts, samples = taken_in(encoded(original, 48_000, "WAV", "FLOAT"), tmp_path)
    assert samples == pytest.approx(original @ weights(channel_count, "WAV"), abs=1e-6)
    assert np.abs(samples).max() <= 1
    assert facts.warnings == (f"{channel_count} channels were mixed down to 2",)


def test_raw_samples_are_what_their_format_says(tmp_path: Path) -> None:
    facts, samples = taken_in(tone(2.0, 24_000, 0.5).tobytes(), tmp_path, RawFormat(24_000, 1))
    assert (facts.original_format, facts.sample_count) == ("raw float32", 96_000)
    assert fitted(samples[:, 1], 440)[0] == pytest.approx(0.5, rel=1e-4)


def test_the_ending_of_a_name_does_not_matter(tmp_path: Path) -> None:
    mp3 = encoded(tone(1.5, 44_100, 0.5, 0.5), 44_100, "MP3")
    for name in ("song.wav", "song.raw", "song.vox", "song"):
        facts, _ = taken_in(mp3, tmp_path, name=name)
        assert facts.original_format == "MP3 MPEG_LAYER_III"


def test_silence_gives_a_warning(tmp_path: Path) -> None:
    facts, _ = taken_in(bytes(2 * 4 * 48_000), tmp_path, RawFormat(48_000, 2))
    assert facts.warnings == ("the audio is silent",)


def test_what_is_above_full_scale_gives_a_warning(tmp_path: Path) -> None:
    facts, _ = taken_in(tone(1.0, 48_000, 2.0).tobytes(), tmp_path, RawFormat(48_000, 1))
    assert facts.warnings == ("samples go up to 2, above full scale",)


@pytest.mark.parametrize(
    ("audio_format", "hint"), [("WAV", "bytes where"), ("FLAC", "lost sync"), ("MP3", "")]
)
def test_a_truncated_file_is_taken_as_far_as_it_goes(audio_format: str, hint: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (48_000 * 4, 2)).astype(np.float32)
    data = encoded(noise, 48_000, audio_format)
    facts, _ = taken_in(data[: len(data) // 2], tmp_path)
    assert 1.8 < facts.duration_s < 2.2
    (warning,) = facts.warnings
    assert warning.startswith(f"the file is cut off or damaged, {facts.duration_s:.2f} s of it were read: ")
    assert hint in warning


def test_a_file_whose_length_was_not_known_when_it_was_written_is_complete(tmp_path: Path) -> None:
    original = tone(1.5, 48_000, 0.5, 0.5)
    wav, flac = (bytearray(encoded(original, 48_000, kind)) for kind in ("WAV", "FLAC"))
    wav[4:8] = wav[40:44] = b"\xff" * 4
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    below_31_bits = bytearray(wav)
    below_31_bits[4:8], below_31_bits[40:44] = b"\x24\xf0\xff\x7f", b"\0\xf0\xff\x7f"
    for data in (wav, flac, below_31_bits):
        facts, _ = taken_in(bytes(data), tmp_path)
        assert (facts.duration_s, facts.warnings) == (1.5, ())


def mp3_without_length(*parts: Samples, quality: int) -> bytes:
    """With a bit rate that varies, as a program writes it that cannot go back to its header."""
    made = io.BytesIO()
    with av.open(made, "w", format="mp3", options={"write_xing": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=48_000, layout="stereo")
        stream.codec_context.qscale = True
        stream.codec_context.global_quality = quality * 118
        frame = av.AudioFrame.from_ndarray(np.concatenate(parts).T.copy(), format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return made.getvalue()


@pytest.mark.parametrize("is_loud_first", [True, False])
def test_an_mp3_that_does_not_say_how_long_it_is_is_read_to_its_end(
    is_loud_first: bool, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (20 * 48_000, 2)).astype(np.float32)
    quiet = tone(40.0, 48_000, 0.1, 0.1)
    parts = (noise, quiet) if is_loud_first else (quiet, noise)
    facts, samples = taken_in(mp3_without_length(*parts, quality=4), tmp_path)
    assert facts.duration_s == pytest.approx(60.0, abs=0.1)
    assert facts.warnings == ()
    last_s = samples[-48_000:]
    assert np.sqrt(np.mean(last_s**2)) == pytest.approx(0.068 if is_loud_first else 0.13, rel=0.1)


@pytest.mark.parametrize(("audio_format", "subtype"), [("MP3", None), ("OGG", "VORBIS")])
def test_of_files_that_are_joined_the_first_is_taken_with_a_warning(
    audio_format: str, subtype: str | None, tmp_path: Path
) -> None:
    one = encoded(tone(3.0, 48_000, 0.5, 0.5), 48_000, audio_format, subtype)
    alone, _ = taken_in(one, tmp_path)
    assert alone.warnings == ()
    assert taken_in(one + b"TAG" + bytes(125), tmp_path)[0].warnings == ()
    facts, _ = taken_in(one + one, tmp_path)
    assert facts.audio_id == alone.audio_id
    (warning,) = facts.warnings
    assert re.fullmatch(
        r"3\.\d\d s of the file were read; the \d+ bytes behind them are another one", warning
    )


WAV = encoded(tone(1.5, 48_000, 0.5, 0.5), 48_000)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "data: is empty; accepted: WAV, FLAC"),
        (b"Please play me a song. " * 999, "data: is no audio that can be read: Format not recognised;"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9_999), "data: is no audio that can be read"),
        (b"\0\0\0 ftypM4A " + bytes(9_999), "(not MP4, M4A, AAC, WebM, WMA)"),
        (WAV[:44], "data: lasts 0 s"),
        (WAV[:48], "data: lasts 2.08333e-05 s (its header promises 288036 bytes where 40 are)"),
        (WAV[: len(WAV) // 2], "data: lasts 0.749"),
        (encoded(tone(1.5, 2_000, 0.5), 2_000), "data: has 2000 samples a second; accepted: 4000 to 384000"),
        (encoded(tone(0.1, 48_000, *[0.5] * 20), 48_000), "data: has 20 channels; accepted: 1 to 16"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(data: bytes, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(data, tmp_path)


@pytest.mark.parametrize(
    ("raw", "byte_count", "expected"),
    [
        (RawFormat(3_999, 2), 8, "header.raw.sample_rate_hz: has 3999 samples a second; accepted: 4000"),
        (RawFormat(-1, 2), 8, "header.raw.sample_rate_hz: has -1 samples a second"),
        (RawFormat(48_000, 0), 8, "header.raw.channel_count: has 0 channels; accepted: 1 to 16"),
        (RawFormat(48_000, 17), 8, "header.raw.channel_count: has 17 channels; accepted: 1 to 16"),
        (RawFormat(48_000, 2), 384_004, "data: has 384004 bytes; accepted: a multiple of 8, 4 for each"),
        (RawFormat(48_000, 2), 383_992, "data: lasts 0.999979 s; accepted: 1 to 600 s"),
        (RawFormat(4_000, 1), 600 * 4_000 * 4 + 4, "data: lasts 600.00025 s by its header; accepted: 1 to"),
    ],
)  # fmt: skip
def test_raw_samples_that_cannot_be_used_are_refused(
    raw: RawFormat, byte_count: int, expected: str, tmp_path: Path
) -> None:
    assert refusal(bytes(byte_count), tmp_path, raw).startswith(expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, -1])
def test_samples_that_are_not_finite_are_refused(value: float, position: int, tmp_path: Path) -> None:
    samples = tone(1.0, 48_000, 0.5, 0.5)
    samples[position, 1] = value
    found = refusal(encoded(samples, 48_000, "WAV", "FLOAT"), tmp_path)
    assert found.startswith("data: has a sample that is no finite number, soon after ")


def test_samples_in_units_of_integers_are_named_as_such(tmp_path: Path) -> None:
    found = refusal(encoded(tone(1.0, 48_000, 20_000.0), 48_000, "WAV", "FLOAT"), tmp_path)
    assert "accepted: up to 8 either way, where 1 is full scale. Divide what is in units of 16-bit" in found


def test_three_hours_are_refused_by_the_header_alone(tmp_path: Path) -> None:
    """Reading them would take seconds, and the file has no samples but its first ones."""
    frame_count = 3 * 3_600 * 48_000
    path = tmp_path / "long.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + 2 * frame_count) + WAV[8:22])
    with soundfile.SoundFile(tmp_path / "sparse.wav", "w", 48_000, 1, "PCM_16") as file:
        file.write(np.zeros(100, np.float32))
    data = bytearray((tmp_path / "sparse.wav").read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", 36 + 2 * frame_count), struct.pack("<I", 2 * frame_count)
    path.write_bytes(data)
    with path.open("r+b") as sparse:
        sparse.truncate(44 + 2 * frame_count)
    with pytest.raises(InvalidArgumentError, match=r"lasts 10800 s by its header; accepted: 1 to 600 s"):
        take_in(path, None, io.BytesIO())


def test_a_file_that_goes_on_longer_than_it_says_is_stopped_at_the_bound(tmp_path: Path) -> None:
    """Of a FLAC file whose header leaves the length open, only decoding tells."""
    data = bytearray(encoded(np.zeros((4_000 * 900, 1), np.float32), 4_000, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path = tmp_path / "endless.flac"
    path.write_bytes(data)
    destination = io.BytesIO()
    with pytest.raises(InvalidArgumentError, match="data: lasts more than 600 s; accepted: 1 to 600 s"):
        take_in(path, None, destination)
    assert destination.tell() <= 600 * 48_000 * 8
