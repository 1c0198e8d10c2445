"""The head of a WAV file whose end is not known yet."""

from __future__ import annotations

import struct

_UNKNOWN_SIZE = 0xFFFFFFFF
_IEEE_FLOAT = 3
_SAMPLE_BYTES = 4


def wav_stream_header(sample_rate_hz: int, channel_count: int) -> bytes:
    """What comes before interleaved little-endian float32 samples of any number.

    Both sizes are the largest there are, which players and converters take for "until the end", as for what
    ffmpeg and SoX write to a pipe. Format: "Multimedia Programming Interface and Data Specifications 1.0",
    IBM and Microsoft, 1991; tag 3 is IEEE float.
    """
    frame_bytes = channel_count * _SAMPLE_BYTES
    form = struct.pack(
        "<HHIIHH",
        _IEEE_FLOAT,
        channel_count,
        sample_rate_hz,
        sample_rate_hz * frame_bytes,
        frame_bytes,
        8 * _SAMPLE_BYTES,
    )
    return b"".join(
        (
            struct.pack("<4sI4s", b"RIFF", _UNKNOWN_SIZE, b"WAVE"),
            struct.pack("<4sI", b"fmt ", len(form)),
            form,
            struct.pack("<4sI", b"data", _UNKNOWN_SIZE),
        )
    )
