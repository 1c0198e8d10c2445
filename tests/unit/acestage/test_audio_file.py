"""Audio files."""

from __future__ import annotations

import io
import os
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
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


@pytest.mark.parametrize(("bit_depth", "bit_count"), [("16", 16), ("24", 24)])
def test_whole_numbers_are_the_nearest_and_cut_off_at_full_scale(
    tmp_path: Path, bit_depth: BitDepth, bit_count: int
) -> None:
    audio = (0.1 * np.random.default_rng(1).standard_normal((100_000, 2))).astype(np.float32)
    audio[:3] = [[1.5, -1.5], [1.0, -1.0], [np.nan, 0.0]]
    full_scale = 2.0 ** (bit_count - 1)
    read = {}
    formats: tuple[AudioFormat, ...] = ("wav", "flac")
    for audio_format in formats:
        path = tmp_path / audio_format
        write_audio(path, audio, 48_000, audio_format=audio_format, bit_depth=bit_depth)
        read[audio_format] = soundfile.read(path)[0] * full_scale
    assert np.array_equal(read["wav"], read["flac"])
    loudest = [full_scale - 1, -full_scale]
    assert read["wav"][:3].tolist() == [loudest, loudest, [0, 0]]
    error = read["wav"][3:] - audio[3:].astype(np.float64) * full_scale
    assert np.abs(error).max() <= 0.5
    assert abs(error.mean()) < 0.01


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


@pytest.fixture
def _small_disk() -> Iterator[None]:
    """No file may be larger than 1000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.usefixtures("_small_disk")
def test_where_there_is_no_room_what_was_there_stands(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    path.write_text("old")
    for each in (path, tmp_path / "new.wav"):
        with pytest.raises(OSError, match=str(each)):
            write_audio(each, AUDIO, 48_000)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_new_file_can_be_read_by_whom_the_old_one_could(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    path.touch(mode=0o600)
    write_audio(path, AUDIO, 48_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size


def test_links_stay_what_they_are(tmp_path: Path) -> None:
    file, link, device = tmp_path / "file", tmp_path / "link", tmp_path / "device"
    link.symlink_to(file)
    device.symlink_to("/dev/null")
    for path in (link, device):
        write_audio(path, AUDIO, 48_000)
    assert link.is_symlink()
    assert device.is_symlink()
    assert soundfile.info(file).frames == len(AUDIO)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write_audio(pipe, AUDIO, 48_000)
        content, _ = reader.communicate(timeout=10)
    assert soundfile.info(io.BytesIO(content)).frames == len(AUDIO)
    assert pipe.is_fifo()
