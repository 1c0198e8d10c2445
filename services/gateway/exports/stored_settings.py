"""The settings that a file carries, read from files that anybody may have made.

Of every file only some MB are looked at, so that neither memory nor time grow with what a hostile one claims.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mutagen import id3
from mutagen.flac import FLAC
from mutagen.mp4 import Atoms, MP4Tags
from mutagen.oggopus import OggOpusInfo, OggOpusVComment

from acestage.errors import InvalidArgumentError
from services.gateway.exports.settings_json import LARGEST_SETTINGS_BYTES, parsed_settings

SETTINGS_NAME = "acestage_settings"
MP4_PREFIX = "----:org.acestage:"

_LARGEST_TAG_BYTES = 4 << 20
_MOST_CHUNKS = 1_000
_ACCEPTED = "audio or a .json that Acestage wrote"


def read_settings(file: Path | BinaryIO, field: str = "file") -> dict[str, Any]:
    """The settings in the tags of an exported file, or in a sidecar; the name of the file does not matter.

    Args:
        file: where it is, or itself, open for reading and able to seek.
        field: what an error calls it.

    Raises:
        InvalidArgumentError: there are none, or the file is damaged or cannot be read.
    """
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                return _read(opened, field)
        return _read(file, field)
    except OSError as error:
        raise InvalidArgumentError.at(field, f"cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, field: str) -> dict[str, Any]:
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return parsed_settings(file.read(LARGEST_SETTINGS_BYTES + 1), field)
    reader = _reader(start)
    if reader is None:
        raise InvalidArgumentError.at(field, f"is of no known kind; accepted: {_ACCEPTED}")
    try:
        stored = reader(file)
    except OSError:
        raise
    except Exception as error:  # what the readers of tags raise at damaged files is of every kind
        raise InvalidArgumentError.at(
            field,
            f"has tags that are damaged or above {_LARGEST_TAG_BYTES >> 20} MiB; accepted: {_ACCEPTED}",
        ) from error
    if stored is None:
        raise InvalidArgumentError.at(field, f"has no settings in its tags; accepted: {_ACCEPTED}")
    return parsed_settings(stored, field)


def _reader(start: bytes) -> Callable[[BinaryIO], str | bytes | None] | None:
    if start.startswith(b"RIFF") and start[8:12] == b"WAVE":
        return _from_wave
    if start[4:8] == b"ftyp":
        return _from_mp4
    readers = {b"ID3": _from_id3, b"fLaC": _from_flac, b"OggS": _from_opus}
    return next((reader for magic, reader in readers.items() if start.startswith(magic)), None)


class _StoredText(id3.TXXX):  # type: ignore[misc]
    """A text of a user's own, of which compressed ones are refused: a small one can grow a thousandfold."""

    @classmethod
    def _fromData(cls, header: Any, tflags: int, data: bytes) -> Any:
        is_new = header.version >= header._V24
        if tflags & (cls.FLAG24_COMPRESS if is_new else cls.FLAG23_COMPRESS):
            raise ValueError("the frame is compressed")
        return super()._fromData(header, tflags, data)


def _from_id3(file: BinaryIO) -> str | None:
    frames = id3.ID3(_head(file), known_frames={"TXXX": _StoredText}, translate=False, load_v1=False)
    return next((str(frame.text[0]) for frame in frames.values() if frame.desc == SETTINGS_NAME), None)


def _from_wave(file: BinaryIO) -> str | None:
    for name, size in _chunks(file, 12, _riff_head):
        if name.lower() == b"id3 ":
            return _from_id3(io.BytesIO(_bounded(file, size)))
    return None


def _from_mp4(file: BinaryIO) -> bytes | None:
    for name, size in _chunks(file, 0, _atom_head):
        if name == b"moov":
            # Its own head in front, for which `size` leaves the room.
            movie = io.BytesIO(struct.pack(">I4s", size + 8, name) + _bounded(file, size))
            atoms = Atoms(movie)
            if b"moov.udta.meta.ilst" not in atoms:
                return None
            tags = MP4Tags(atoms, movie)
            found: Iterable[Any] = tags.get(MP4_PREFIX + SETTINGS_NAME, ())
            return next((bytes(value) for value in found), None)
    return None


def _from_flac(file: BinaryIO) -> str | None:
    return _first_comment(FLAC(_head(file)).tags)


def _from_opus(file: BinaryIO) -> str | None:
    head = _head(file)
    return _first_comment(OggOpusVComment(head, OggOpusInfo(head)))


def _first_comment(comments: Any) -> str | None:
    return next((value for name, value in comments or () if name.lower() == SETTINGS_NAME), None)


def _head(file: BinaryIO) -> BinaryIO:
    return io.BytesIO(file.read(_LARGEST_TAG_BYTES))


def _bounded(file: BinaryIO, size: int) -> bytes:
    if size > _LARGEST_TAG_BYTES:
        raise ValueError("the part with the tags is too large")
    return file.read(size)


def _chunks(
    file: BinaryIO, start: int, read_head: Callable[[BinaryIO], tuple[bytes, int, int] | None]
) -> Iterator[tuple[bytes, int]]:
    """The name and size of each part of `file`, which is then at the first byte of its content."""
    for _ in range(_MOST_CHUNKS):
        file.seek(start)
        head = read_head(file)
        if head is None:
            return
        name, size, next_start = head
        yield name, size
        start = next_start
    raise ValueError("the file has too many parts")


def _riff_head(file: BinaryIO) -> tuple[bytes, int, int] | None:
    head = file.read(8)
    if len(head) < 8:
        return None
    name, size = struct.unpack("<4sI", head)
    return name, size, file.tell() + size + size % 2


def _atom_head(file: BinaryIO) -> tuple[bytes, int, int] | None:
    start = file.tell()
    head = file.read(8)
    if len(head) < 8:
        return None
    size, name = struct.unpack(">I4s", head)
    if size == 1:
        (size,) = struct.unpack(">Q", file.read(8))
    elif size == 0:
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start + 8)
    content_start = file.tell()
    if start + size < content_start or start + size >= 1 << 62:
        raise ValueError("a part has an impossible size")
    return name, start + size - content_start, start + size
