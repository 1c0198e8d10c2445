"""Title, seed and settings in the tags of a finished file, by mutagen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutagen import id3
from mutagen.flac import FLAC
from mutagen.mp4 import MP4, AtomDataType, MP4FreeForm
from mutagen.oggopus import OggOpus
from mutagen.wave import WAVE

from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.settings_json import settings_text
from services.gateway.exports.stored_settings import MP4_PREFIX, SETTINGS_NAME

_MAKER = "Acestage"
"""The artist, and the program, of every file."""


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says of itself.

    Attributes:
        settings: all that is needed to generate it again; what JSON can hold.
    """

    title: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)


def write_tags(path: Path, audio_format: ExportFormat, tags: Tags) -> None:
    """Puts `tags` into the finished file `path`, which has none yet.

    Raises:
        InvalidArgumentError: the settings are no JSON, or too large.
        MutagenError, OSError: the file cannot be written.
    """
    settings = settings_text(tags.settings)
    match audio_format:
        case ExportFormat.mp3:
            frames = id3.ID3()
            _add_frames(frames, tags, settings)
            frames.save(path)
        case ExportFormat.wav16 | ExportFormat.wav24 | ExportFormat.wav32:
            wave = WAVE(path)
            wave.add_tags()
            _add_frames(wave.tags, tags, settings)
            wave.save()
        case ExportFormat.flac | ExportFormat.opus:
            _write_comments(
                FLAC(path) if audio_format is ExportFormat.flac else OggOpus(path), tags, settings
            )
        case ExportFormat.aac:
            _write_atoms(path, tags, settings)


def _add_frames(frames: Any, tags: Tags, settings: str) -> None:
    """ID3, version 2.4: https://id3.org/id3v2.4.0-frames."""
    utf8 = id3.Encoding.UTF8
    frames.add(id3.TIT2(encoding=utf8, text=_plain(tags.title)))
    frames.add(id3.TPE1(encoding=utf8, text=_MAKER))
    frames.add(id3.TSSE(encoding=utf8, text=_MAKER))
    frames.add(id3.TXXX(encoding=utf8, desc="seed", text=str(tags.seed)))
    frames.add(id3.TXXX(encoding=utf8, desc=SETTINGS_NAME, text=settings))


def _write_comments(file: Any, tags: Tags, settings: str) -> None:
    """Vorbis comments: https://xiph.org/vorbis/doc/v-comment.html."""
    file["title"] = _plain(tags.title)
    file["artist"] = _MAKER
    file["encoder"] = _MAKER
    file["seed"] = str(tags.seed)
    file[SETTINGS_NAME] = settings
    file.save()


def _write_atoms(path: Path, tags: Tags, settings: str) -> None:
    """The list of metadata items of QuickTime and iTunes; those without a name of their own are freeform."""
    file = MP4(path)
    file["\xa9nam"] = _plain(tags.title)
    file["\xa9ART"] = _MAKER
    file["\xa9too"] = _MAKER
    for name, text in (("seed", str(tags.seed)), (SETTINGS_NAME, settings)):
        file[MP4_PREFIX + name] = MP4FreeForm(text.encode(), dataformat=AtomDataType.UTF8)
    file.save()


def _plain(text: str) -> str:
    """`text` without what ends a text in some tags, or has no UTF-8."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")
