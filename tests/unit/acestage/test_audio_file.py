"""Audio files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acestage.audio_file import AudioFormat, BitDepth, write_audio
from acestage.errors import InvalidArgumentError

AUDIO = np.linspace(-1, 1, 2_000, dtype=np.float32).reshape(1_000, 2)


@pytest.mark.parametrize(
    ("audio_format", "bit_depth", "tolerance"),
    [("wav", "16", 2**-14), ("wav", "24", 2**-22), ("wav", "32f", 0), ("flac", "16", 2**-14)],
)
def test_what_is_written_is_what_is_read(
    tmp_path: Path, audio_format: AudioFormat, bit_depth: BitDepth, tolerance: float
) -> None:
    path = tmp_path / "new" / "folder" / "song"
    write_audio(path, AUDIO, 48_000, audio_format=audio_format, bit_depth=bit_depth)
    read, rate = soundfile.read(path, dtype="float32")
    assert rate == 48_000
    np.testing.assert_allclose(read, AUDIO, rtol=0, atol=tolerance)


def test_a_name_need_not_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"e\xff.wav")
    write_audio(path, AUDIO, 48_000)
    assert soundfile.info(io.BytesIO(path.read_bytes())).frames == len(AUDIO)


def test_a_depth_that_the_format_lacks_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"bit_depth.*32f.*16, 24"):
        write_audio(tmp_path / "song.flac", AUDIO, 48_000, audio_format="flac", bit_depth="32f")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_an_os_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        write_audio(tmp_path, AUDIO, 48_000)
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_audio(Path("/dev/full"), AUDIO, 48_000)


def test_a_folder_that_cannot_be_made_is_an_os_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match=str(file)):
        write_audio(file / "song.wav", AUDIO, 48_000)
