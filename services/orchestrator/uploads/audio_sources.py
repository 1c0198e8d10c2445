"""Audio as it was uploaded, block by block: a file of any kind that libsndfile reads, or bare samples."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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

_UNKNOWN_BYTES = 0x7FFF_0000
"""What a header says, at the least, of data whose length was not known when it was written: some programs
write the most that fits into 31 bits, a little less, or into 32."""
_PADDING_BYTES = 64
_TAG_BYTES = 1 << 12
"""Behind the audio there may be tags of so many bytes; whatever is longer is audio, too."""
_LAST_TAG_BYTES = 128
"""Those of an ID3v1 tag."""
_JOINED = ("MP3", "OGG")
"""Formats whose files can be joined end to end, of which libsndfile mostly reads the first alone."""
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
        unread_bytes: what is behind the end of the audio, once all blocks were read.
    """

    container: str
    label: str
    sample_rate_hz: int
    channel_count: int
    frame_count: int | None
    problem: str | None
    unread_bytes: int

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
        with ExitStack() as stack:
            stack.enter_context(opened)
            if opened.format == "MP3":
                endless = opened
                with suppress(soundfile.LibsndfileError):
                    endless = stack.enter_context(_ForwardFile(_EndlessFile(file, byte_count)))
                if endless.frames != opened.frames:  # a length that goes with the size of the file is a guess
                    yield _FileSource.of(endless, None)
                    return
            frame_count = opened.frames if 0 <= opened.frames < _LARGEST_FRAME_COUNT else None
            yield _FileSource.of(opened, frame_count, file if opened.format in _JOINED else None)


class _EndlessFile:
    """A file that claims to be a thousand times as long as it is, so that a guess of its length is too long.

    MP3 files need not say how long they are. libmpg123 guesses it then by their size and their first frame,
    and libsndfile reads no further: where the bit rate varies and begins high, it stops early. The last bytes
    are there twice, for tags.
    """

    def __init__(self, file: BinaryIO, byte_count: int) -> None:
        self._descriptor = file.fileno()
        self._claimed_bytes = byte_count * 1_000
        self._beyond_bytes = self._claimed_bytes - byte_count
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._claimed_bytes)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray) -> int:
        is_at_end = self._position >= self._claimed_bytes - _LAST_TAG_BYTES
        place = self._position - (self._beyond_bytes if is_at_end else 0)
        count = os.preadv(self._descriptor, [buffer], place)
        self._position += count
        return count

    def read(self, count: int) -> bytes:
        """Is asked for by soundfile, and called by nobody."""
        raise NotImplementedError


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
    _joined: BinaryIO | None
    """The file itself, where another one may follow in it."""
    unread_bytes: int = 0

    @classmethod
    def of(cls, file: _ForwardFile, frame_count: int | None, joined: BinaryIO | None = None) -> _FileSource:
        return cls(
            file,
            container=file.format,
            label=f"{file.format} {file.subtype}",
            sample_rate_hz=file.samplerate,
            channel_count=file.channels,
            frame_count=frame_count,
            problem=_shortage(file.extra_info),
            _joined=joined,
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
                break
            yield block
        if self._joined is not None:
            descriptor = self._joined.fileno()
            left_bytes = os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR)
            self.unread_bytes = left_bytes if left_bytes > _TAG_BYTES else 0


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
    unread_bytes: int = 0
    container: str = ""
    label: str = "raw float32"

    def blocks(self) -> Iterator[Block]:
        while data := self._file.read(_BLOCK_FRAME_COUNT * 4 * self.channel_count):
            yield np.frombuffer(data, "<f4").reshape(-1, self.channel_count)
