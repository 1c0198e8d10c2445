"""Finished files: whole or not there, as long as their source, tagged, and restored from their tags."""

from __future__ import annotations

import io
import json
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from acestage.errors import ExportError, InvalidArgumentError
from services.gateway.exports.export import write_export
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.settings_json import LARGEST_SETTINGS_BYTES
from services.gateway.exports.sidecar import write_sidecar
from services.gateway.exports.stored_settings import read_settings
from services.gateway.exports.tags import Tags
from tests.unit.gateway.exports.exported_audio import RATE_HZ, heard, two_tones

SETTINGS: dict[str, Any] = {
    "prompt": "warm lo-fi piano, rain — 雨 🎹",
    "lyrics": "詞[verse]\n\0é\ud800" + "x\u0644" * 25_000,
    "seed": 7,
    "nested": {"timesteps": [0.97, 0.5], "none": None, "yes": True},
}
TAGS = Tags('Tïtle / "雨"\0', 7, SETTINGS)


def exported(folder: Path, audio_format: ExportFormat, tags: Tags = TAGS, **options: Any) -> Path:
    path = folder / f"song-{audio_format}{audio_format.suffix}"
    write_export(path, two_tones(RATE_HZ // 2 + 77), audio_format, tags=tags, **options)
    return path


@contextmanager
def no_file_above(byte_count: int) -> Iterator[None]:
    """As on a full disk, writing fails part of the way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte_count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_a_file_is_as_long_as_its_source_and_sounds_like_it(
    audio_format: ExportFormat, tmp_path: Path
) -> None:
    source = two_tones(RATE_HZ // 2 + 77)
    sound = heard(exported(tmp_path, audio_format))
    # Only the end of an aac is filled up to a whole frame; the codec's delay is known in all.
    assert 0 <= len(sound) - len(source) < (1024 if audio_format is ExportFormat.aac else 1)
    middle = slice(4_800, 19_200)
    error_rms = np.sqrt(np.square(sound[middle] - source[middle]).mean())
    # 30 dB below the source; shifted by one sample it would be 23 dB below.
    assert error_rms < np.sqrt(np.square(source[middle]).mean()) * 10 ** (-30 / 20)
    assert [entry.suffix for entry in tmp_path.iterdir()] == [audio_format.suffix]


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_settings_come_back_from_the_tags(audio_format: ExportFormat, tmp_path: Path) -> None:
    path = exported(tmp_path, audio_format)
    assert read_settings(path) == SETTINGS
    assert read_settings(io.BytesIO(path.read_bytes())) == SETTINGS


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_players_show_title_artist_and_seed(audio_format: ExportFormat, tmp_path: Path) -> None:
    tags = mutagen.File(exported(tmp_path, audio_format)).tags
    names = {
        ".mp3": ("TIT2", "TPE1", "TXXX:seed"),
        ".wav": ("TIT2", "TPE1", "TXXX:seed"),
        ".m4a": ("\xa9nam", "\xa9ART", "----:org.acestage:seed"),
    }
    shown = [tags[name][0] for name in names.get(audio_format.suffix, ("title", "artist", "seed"))]
    texts = [value.decode() if isinstance(value, bytes) else value for value in shown]
    assert texts == ['Tïtle / "雨"', "Acestage", "7"]


def test_float_files_are_exact(tmp_path: Path) -> None:
    path = exported(tmp_path, ExportFormat.wav32)
    assert np.array_equal(soundfile.read(path, dtype="float32")[0], two_tones(RATE_HZ // 2 + 77))


def test_flac_files_are_rounded_to_24_bits(tmp_path: Path) -> None:
    read, _ = soundfile.read(exported(tmp_path, ExportFormat.flac), dtype="float64")
    source = two_tones(RATE_HZ // 2 + 77).astype(np.float64)
    assert np.array_equal(read, np.rint(source * 2**23) / 2**23)


def test_an_edge_fade_touches_the_edges_only(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    source = np.ones((70_000, 2), np.float32)  # longer than a block
    write_export(path, source, ExportFormat.wav32, tags=TAGS, edge_fade_ms=10.0)
    sound, _ = soundfile.read(path, dtype="float32")
    assert np.array_equal(sound[480:-480], source[480:-480])
    assert np.all(np.diff(sound[:480, 0]) > 0)
    assert sound[0, 0] < 1e-4
    assert np.array_equal(sound, sound[::-1])


def test_a_fade_is_no_longer_than_half_of_the_sound(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    write_export(path, np.ones((101, 2), np.float32), ExportFormat.wav32, tags=TAGS, edge_fade_ms=100.0)
    sound, _ = soundfile.read(path, dtype="float32")
    assert sound.argmax() // 2 in (49, 50)


@pytest.mark.parametrize("fade", [-1.0, 100.1, float("nan"), float("inf")])
def test_a_wrong_fade_is_refused(fade: float, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"edge_fade_ms: is .*; accepted: 0 to 100"):
        exported(tmp_path, ExportFormat.wav16, edge_fade_ms=fade)


@pytest.mark.parametrize("samples", [np.zeros((10, 1), np.float32), np.zeros(10, np.float32)])
def test_samples_that_are_not_stereo_are_refused(samples: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"samples: are .*; accepted: float32 of shape \[count, 2\]"
    ):
        write_export(tmp_path / "song.wav", samples, ExportFormat.wav32, tags=TAGS, edge_fade_ms=10.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_a_full_disk_leaves_nothing_behind(audio_format: ExportFormat, tmp_path: Path) -> None:
    with no_file_above(5_000), pytest.raises(ExportError, match=r"song-.* cannot be written: File too large"):
        exported(tmp_path, audio_format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("audio_format", ExportFormat)
def test_a_disk_that_fills_up_with_the_tags_keeps_the_old_file(
    audio_format: ExportFormat, tmp_path: Path
) -> None:
    path = exported(tmp_path, audio_format, Tags("t", 1))
    before = path.read_bytes()
    # The audio has room, but not the lyrics of the new tags.
    with no_file_above(len(before) + 20_000), pytest.raises(ExportError, match="cannot be written"):
        exported(tmp_path, audio_format)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file or directory"):
        exported(tmp_path / "absent", ExportFormat.mp3)


def test_settings_that_are_no_json_are_refused(tmp_path: Path) -> None:
    for wrong in ({"x": object()}, {"x": float("nan")}, {"x": "y" * LARGEST_SETTINGS_BYTES}):
        with pytest.raises(InvalidArgumentError, match="settings: "):
            exported(tmp_path, ExportFormat.wav16, Tags("t", 1, wrong))
    assert list(tmp_path.iterdir()) == []


def test_a_sidecar_restores_the_settings(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.b-seed-7.mp3", SETTINGS)
    sidecar = tmp_path / "a.b-seed-7.json"
    assert read_settings(sidecar) == SETTINGS == json.loads(sidecar.read_text("utf-8"))
    assert "雨" in sidecar.read_text("utf-8")


def test_a_full_disk_keeps_the_old_sidecar(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.mp3", {"seed": 1})
    with no_file_above(1_000), pytest.raises(ExportError, match=r"a\.json cannot be written"):
        write_sidecar(tmp_path / "a.mp3", SETTINGS)
    sidecar = tmp_path / "a.json"
    assert read_settings(sidecar) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [sidecar]


def compressed_id3(text: bytes) -> bytes:
    data = b"\x03acestage_settings\0" + text
    packed = struct.pack(">I", 0) + zlib.compress(data)
    frame = b"TXXX" + syncsafe(len(packed)) + b"\x00\x09" + packed
    return b"ID3\x04\x00\x00" + syncsafe(len(frame)) + frame


def syncsafe(size: int) -> bytes:
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is of no known kind"),
        (b"plain words, not audio", "is of no known kind"),
        (b"{", "damaged: they are not JSON"),
        (b'{"a": NaN}', "damaged: they are not JSON"),
        (b'{"a":' * 100_000, "damaged: they are not JSON"),
        (b'{"a":' * 21 + b"{" + b"}" * 22, "more than 20 levels"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "more than 20 levels"),
        (b'{"a": "' + b"x" * LARGEST_SETTINGS_BYTES + b'"}', "more than 1048576 bytes"),
        (compressed_id3(b'{"a": "' + b"x" * 100 + b'"}'), "has tags that are damaged"),
        (b"RIFF\0\0\0\0WAVE" + b"LIST\0\0\0\0" * 2_000, "has tags that are damaged"),
        (b"RIFF\0\0\0\0WAVEid3 \xff\xff\xff\xff", "has tags that are damaged"),
        (b"\0\0\0\x08ftyp" + b"\0\0\0\x01moov" + b"\xff" * 8, "has tags that are damaged"),
        (b"\0\0\0\x08ftyp\0\0\0\x08free", "has no settings in its tags"),
        (b"OggS", "has tags that are damaged"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_files_without_settings_are_refused_in_clear_words(data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"upload: .*{message}"):
        read_settings(io.BytesIO(data), "upload")


@pytest.mark.parametrize("audio_format", ["WAV", "FLAC"])
def test_a_file_of_another_program_has_no_settings(audio_format: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, two_tones(100), RATE_HZ, format=audio_format)
    with pytest.raises(InvalidArgumentError, match="has no settings in its tags"):
        read_settings(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="file: cannot be read: No such file"):
        read_settings(tmp_path / "absent.mp3")


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("small")
    tags = Tags("t", 1, {"seed": 1, "lyrics": "la " * 20})
    files = []
    for audio_format in ExportFormat:
        path = folder / f"song{audio_format.suffix}"
        write_export(path, two_tones(4_800), audio_format, tags=tags)
        files.append(path.read_bytes())
    return files


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_give_settings_or_a_clear_error(small_files: list[bytes], data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(small_files)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Mostly in the first bytes and the last ones, where the tags are.
        place = data.draw(st.integers(-600, 600)) % len(file)
        file[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del file[data.draw(st.integers(0, len(file))) :]
    with suppress(InvalidArgumentError):
        assert isinstance(read_settings(io.BytesIO(file)), dict)
