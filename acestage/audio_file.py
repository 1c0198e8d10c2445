"""Audio to disk, by soundfile."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile

from acestage.atomic_file import replacing
from acestage.errors import InvalidArgumentError
from acestage.pcm import to_pcm

AudioFormat = Literal["wav", "flac"]
BitDepth = Literal["16", "24", "32f"]

_SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}
_BIT_DEPTHS: dict[AudioFormat, tuple[BitDepth, ...]] = {"wav": ("16", "24", "32f"), "flac": ("16", "24")}

_BLOCK_SAMPLES = 1 << 16
"""How many samples a channel are converted at a time."""

_OTHER_FORMATS = frozenset({"aac", "aif", "aiff", "caf", "m4a", "mp3", "mp4", "ogg", "opus", "webm", "wma"})


def format_of(path: Path, asked: AudioFormat | None = None) -> AudioFormat:
    """The format of a file with this name: the one that was asked for, else that of its suffix, else wav.

    Raises:
        ValueError: the suffix is that of another format.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in _OTHER_FORMATS:
        raise ValueError(f"is {path}; accepted: .wav, .flac; mp3 and others come from the page or REST")
    named = next((known for known in _BIT_DEPTHS if known == suffix), None)
    if named is not None and asked is not None and named != asked:
        raise ValueError(f"is {path}, but the format is {asked}; accepted for that: .{asked}")
    return asked or named or "wav"


def check_format(audio_format: str, bit_depth: str) -> None:
    """Raises `InvalidArgumentError` where the format cannot be written in that depth."""
    depths = _BIT_DEPTHS.get(audio_format)  # type: ignore[call-overload]
    if depths is None:
        raise InvalidArgumentError.at("format", f"is {audio_format!r}; accepted: {', '.join(_BIT_DEPTHS)}")
    if bit_depth not in depths:
        raise InvalidArgumentError.at(
            "bit_depth", f"is {bit_depth!r}; accepted for {audio_format}: {', '.join(depths)}"
        )


def write_audio(
    path: Path,
    audio: npt.NDArray[np.float32],
    sample_rate_hz: int,
    *,
    audio_format: AudioFormat = "wav",
    bit_depth: BitDepth = "16",
) -> None:
    """Writes `audio` [samples, channels], full scale at ±1, making the folder where needed.

    A file that is there already stands until the new one is whole.

    Raises:
        InvalidArgumentError: the format cannot be written in that depth.
        OSError: the file cannot be written.
    """
    check_format(audio_format, bit_depth)
    # In memory, as libsndfile does not tell when there is no room for the last samples of a FLAC file.
    content = io.BytesIO()
    _encode(content, audio, sample_rate_hz, audio_format, bit_depth)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, content.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _encode(
    file: io.BytesIO,
    audio: npt.NDArray[np.float32],
    sample_rate_hz: int,
    audio_format: AudioFormat,
    bit_depth: BitDepth,
) -> None:
    with soundfile.SoundFile(
        file,
        "w",
        sample_rate_hz,
        channels=audio.shape[1],
        subtype=_SUBTYPES[bit_depth],
        format=audio_format.upper(),
    ) as encoder:
        for start in range(0, len(audio), _BLOCK_SAMPLES):
            block = audio[start : start + _BLOCK_SAMPLES]
            if bit_depth == "32f":
                encoder.write(block)
            else:  # libsndfile takes the upper bits, and would not round
                bit_count = int(bit_depth)
                encoder.write(to_pcm(block, bit_count) << (32 - bit_count))


def _write(path: Path, content: memoryview) -> None:
    is_new = not os.path.lexists(path)
    if not (is_new or _is_replaceable(path)):
        path.write_bytes(content)
        return
    with replacing(path) as part:
        part.write_bytes(content)
        if not is_new:
            shutil.copymode(path, part)


def _is_replaceable(path: Path) -> bool:
    """Whether another file may take the place of this one: not of a link or a device, nor without leave."""
    if path.is_symlink() or not path.is_file():
        return False
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)
