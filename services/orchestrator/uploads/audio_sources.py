"""Audio as it was uploaded, block by block: a file of any kind that libsndfile reads, or bare samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from acestage.errors import InvalidArgumentError
from services.orchestrator.uploads.audio_facts import RawFormat

ACCEPTED = "WAV, FLAC, Ogg (Vorbis or Opus), MP3, AIFF and whatever else libsndfile reads, or raw samples"

_BLOCK_FRAME_COUNT = 1 << 12
"""Where a damaged file ends in an error, up to so many frames before it are lost."""
_LARGEST_FRAME_COUNT = 1 << 62
"""libsndfile says about twice as much where it does not know."""

_UNKNOWN_BYTES = 0xFFFF_FFFF
"""What a header says of data whose length was not known when it was written."""
_PADDING_BYTES = 64
_FEWER_BYTES = re.compile(r": +(\d+) \(should be (\d+)\)")
"""How libsndfile logs that a chunk has another size than its header says."""

Block = npt.NDArray[np.float32]


class Source(Protocol):
    """Audio that can be read once, from its beginning.

    Attributes:
        container: libsndfile's name of the file's format; empty for raw samples.
        label: the format for people.
        sample_rate_hz, channel_count: what its header says, whatever that is.
        frame_count: what its header promises; None where it does not say.
        problem: why there is less than promised, as far as it is known by now.
    """

    container: str
    label: str
    sample_rate_hz: int
    channel_count: int
    frame_count: int | None
    problem: str | None

    def blocks(self) -> Iterator[Block]:
        """The samples, [frames, channels] at a time. A block is valid until the next one is asked for."""
        ...


@contextmanager
def open_source(path: Path, raw: RawFormat | None) -> Iterator[Source]:
    """The audio in the file `path`: samples in the format `raw`, or a file that says by itself what it is.

    Raises:
        InvalidArgumentError: there is none.
    """
    byte_count = path.stat().st_size
    if byte_count == 0:
        raise InvalidArgumentError.at("data", f"is empty; accepted: {ACCEPTED}")
    with path.open("rb") as file:
        if raw is not None:
            yield _RawSource(
                file, raw.sample_rate_hz, raw.channel_count, byte_count // (4 * raw.channel_count)
            )
            return
        try:
            opened = _ForwardFile(file.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            raise InvalidArgumentError.at(
                "data",
                f"is no audio that can be read: {error.error_string.rstrip('.')}; accepted: {ACCEPTED} "
                "(not MP4, M4A, AAC, WebM, WMA)",
            ) from error
        with opened:
            yield _FileSource.of(opened)


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """Never seeks: soundfile would do so after every block, which is slow or inexact in compressed files."""

    def seekable(self) -> bool:
        return False


@dataclass(slots=True)
class _FileSource:
    _file: _ForwardFile
    container: str
    label: str
    sample_rate_hz: int
    channel_count: int
    frame_count: int | None
    problem: str | None

    @classmethod
    def of(cls, file: _ForwardFile) -> _FileSource:
        return cls(
            file,
            container=file.format,
            label=f"{file.format} {file.subtype}",
            sample_rate_hz=file.samplerate,
            channel_count=file.channels,
            frame_count=file.frames if 0 <= file.frames < _LARGEST_FRAME_COUNT else None,
            problem=_shortage(file.extra_info),
        )

    def blocks(self) -> Iterator[Block]:
        buffer = np.empty((_BLOCK_FRAME_COUNT, self.channel_count), np.float32)
        while True:
            try:
                block = self._file.read(out=buffer)
            except soundfile.LibsndfileError as error:  # what came before is sound
                self.problem = error.error_string.removeprefix("Error : ").rstrip(".")
                return
            if not len(block):
                return
            yield block


def _shortage(log: str) -> str | None:
    """What libsndfile's log of a header says of bytes that are missing."""
    for match in _FEWER_BYTES.finditer(log):
        promised, present = int(match[1]), int(match[2])
        if present + _PADDING_BYTES < promised < _UNKNOWN_BYTES:
            return f"its header promises {promised} bytes where {present} are"
    return None


@dataclass(slots=True)
class _RawSource:
    _file: BinaryIO
    sample_rate_hz: int
    channel_count: int
    frame_count: int | None
    problem: str | None = None
    container: str = ""
    label: str = "raw float32"

    def blocks(self) -> Iterator[Block]:
        while data := self._file.read(_BLOCK_FRAME_COUNT * 4 * self.channel_count):
            yield np.frombuffer(data, "<f4").reshape(-1, self.channel_count)
