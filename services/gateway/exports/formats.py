"""The formats that users can ask for, and which of them this machine can write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from av.error import FFmpegError

from acestage.errors import AcestageError, InvalidArgumentError
from acestage.song_audio import SAMPLE_RATE_HZ
from services.gateway.exports.codec import Codec, CodecWriter, Container


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a format is made, and what it is called over HTTP, as a finished file and as a stream."""

    codec: Codec
    suffix: str
    media_type: str
    container: Container
    stream_media_type: str
    stream_container: Container
    stream_codec: Codec | None = None  # None: `codec`


class ExportFormat(StrEnum):
    """A format of audio that users take away."""

    mp3 = "mp3"
    flac = "flac"
    wav16 = "wav16"
    wav24 = "wav24"
    wav32 = "wav32"
    opus = "opus"
    aac = "aac"

    @property
    def suffix(self) -> str:
        """How the name of a finished file ends, with the dot."""
        return _KINDS[self].suffix

    @property
    def media_type(self) -> str:
        """What a finished file is called in `Content-Type`."""
        return _KINDS[self].media_type

    @property
    def stream_media_type(self) -> str:
        """What the bytes of a `StreamEncoder` are called in `Content-Type`."""
        return _KINDS[self].stream_media_type

    @property
    def codec(self) -> Codec:
        """How a finished file is encoded."""
        return _KINDS[self].codec

    @property
    def container(self) -> Container:
        """What the codec of a finished file is put into."""
        return _KINDS[self].container

    @property
    def stream_codec(self) -> Codec:
        """How a stream is encoded."""
        return _KINDS[self].stream_codec or self.codec

    @property
    def stream_container(self) -> Container:
        """What the codec of a stream is put into; it can be played from the start while it grows."""
        return _KINDS[self].stream_container


def _wav(codec: Codec) -> _Kind:
    # To a sink that cannot seek the muxer writes the largest lengths, as `acestage.wav_stream` does.
    return _Kind(codec, ".wav", "audio/wav", Container("wav"), "audio/wav", Container("wav"))


_MP3 = Codec("libmp3lame", "clipped", "fltp", bit_rate_bps=320_000, frames_agree=True)

# The lossy ones are at rates that few can tell from the source: mp3 at its highest constant one, so that
# places in a stream can be found without a table. Such a stream has no tag and no table in front, so that its
# first bytes are audio. LAME searches less for it, 26 ms for a second of audio instead of 42: it is encoded
# while stages compute, and heard once. An Ogg page holds 0.1 s of a stream, not 1 s as in files.
_KINDS = {
    ExportFormat.mp3: _Kind(
        _MP3,
        ".mp3",
        "audio/mpeg",
        Container("mp3", {"id3v2_version": "0"}),
        "audio/mpeg",
        Container("mp3", {"id3v2_version": "0", "write_xing": "0"}),
        replace(_MP3, options={"compression_level": "7"}),
    ),
    ExportFormat.flac: _Kind(
        Codec("flac", "int24", "s32"),
        ".flac",
        "audio/flac",
        Container("flac"),
        "audio/flac",
        Container("flac"),
    ),
    ExportFormat.wav16: _wav(Codec("pcm_s16le", "int16", "s16")),
    ExportFormat.wav24: _wav(Codec("pcm_s24le", "int24", "s32")),
    ExportFormat.wav32: _wav(Codec("pcm_f32le", "float", "flt")),
    ExportFormat.opus: _Kind(
        Codec("libopus", "clipped", "flt", bit_rate_bps=160_000),
        ".opus",
        "audio/ogg",
        Container("opus"),
        "audio/ogg",
        Container("opus", {"page_duration": "100000"}),
    ),
    ExportFormat.aac: _Kind(
        Codec("aac", "clipped", "fltp", bit_rate_bps=256_000),
        ".m4a",
        "audio/mp4",
        # The index in front, so that a browser plays the file before it has all of it.
        Container("ipod", {"movflags": "faststart"}),
        "audio/aac",
        Container("adts"),
    ),
}

_ALIASES = {"wav": ExportFormat.wav16}
_SHOWN_CHARACTERS = 40


def parse_format(text: str, faults: Mapping[ExportFormat, str], field: str = "audio_format") -> ExportFormat:
    """The format called `text`, in any case; "wav" is the one of 16 bits.

    Args:
        text: what a client asks for.
        faults: why some cannot be written here, as `usable_formats` says.
        field: what an error calls it.

    Raises:
        InvalidArgumentError: there is none of that name, or it cannot be written.
    """
    accepted = {**_ALIASES, **{name.value: name for name in ExportFormat}}
    found = accepted.get(text.strip().lower())
    if found is None:
        raise InvalidArgumentError.at(
            field, f"is {text[:_SHOWN_CHARACTERS]!r}; accepted: {', '.join(sorted(accepted))}"
        )
    if fault := faults[found]:
        usable = ", ".join(name for name, why in faults.items() if not why)
        raise InvalidArgumentError.at(field, f"is {found.value!r}, but {fault}; accepted: {usable}")
    return found


class _Count:
    """Counts the bytes of a stream."""

    def __init__(self) -> None:
        self.byte_count = 0

    def write(self, data: bytes, /) -> int:
        self.byte_count += len(data)
        return len(data)


def encode_a_tone(codec: Codec, container: Container) -> int:
    """Encodes 0.1 s, and returns the bytes that came out."""
    times = np.arange(4_800, dtype=np.float32)[:, None] / np.float32(SAMPLE_RATE_HZ)
    tone = np.float32(0.5) * np.sin(np.float32(2 * np.pi * 440) * times)
    sink = _Count()
    writer = CodecWriter(sink, codec, container)
    try:
        writer.write(np.repeat(tone, 2, axis=1))
        writer.close()
    finally:
        writer.abandon()
    return sink.byte_count


def usable_formats(encode: Callable[[Codec, Container], int] = encode_a_tone) -> dict[ExportFormat, str]:
    """Every format, with "" where its encoder works here, else why it does not. Takes some 50 ms."""
    return {audio_format: _fault(audio_format, encode) for audio_format in ExportFormat}


def _fault(audio_format: ExportFormat, encode: Callable[[Codec, Container], int]) -> str:
    encoder = audio_format.codec.encoder
    try:
        byte_count = encode(audio_format.stream_codec, audio_format.stream_container)
    except (FFmpegError, AcestageError, ValueError, OSError) as error:
        return f"the encoder {encoder} does not work here: {error}"
    return "" if byte_count else f"the encoder {encoder} gave no bytes"
