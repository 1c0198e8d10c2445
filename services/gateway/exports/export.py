"""Finished files: encoded, tagged, and only then given their name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from mutagen import MutagenError

from acestage.atomic_file import replacing
from acestage.errors import ExportError, InvalidArgumentError
from acestage.song_audio import SAMPLE_RATE_HZ
from services.gateway.exports.codec import BLOCK_SAMPLES, CodecWriter, Samples, check_shape
from services.gateway.exports.encoded_parts import EncodedParts
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.tags import Tags, write_tags

LONGEST_EDGE_FADE_MS = 100.0


def check_edge_fade(edge_fade_ms: float) -> None:
    """Raises `InvalidArgumentError` where a file cannot have a fade of this length."""
    if not (math.isfinite(edge_fade_ms) and 0.0 <= edge_fade_ms <= LONGEST_EDGE_FADE_MS):
        raise InvalidArgumentError.at(
            "edge_fade_ms", f"is {edge_fade_ms:g}; accepted: 0 to {LONGEST_EDGE_FADE_MS:g}"
        )


def write_export(
    path: Path,
    samples: Samples,
    audio_format: ExportFormat,
    *,
    tags: Tags,
    edge_fade_ms: float = 0.0,
) -> None:
    """Writes `samples` float32 [count, 2], which may be a memory map, as a file with tags.

    Another file of that name is replaced. After an error there is nothing new in the folder. Besides the
    samples it needs some MB, whatever their number, and for mp3 as much as the file.

    Args:
        edge_fade_ms: how long the sound rises at its start and falls at its end, each no longer than half of
            it, by half a period of a cosine.

    Raises:
        InvalidArgumentError: the fade, the samples or the settings in `tags` cannot be taken.
        ExportError: the file cannot be written, for example because the disk is full.
    """
    check_edge_fade(edge_fade_ms)
    check_shape(samples)
    fade_count = min(round(edge_fade_ms * SAMPLE_RATE_HZ / 1_000), len(samples) // 2)
    try:
        with replacing(path) as part:
            _encode(part, samples, audio_format, fade_count)
            write_tags(part, audio_format, tags)
    except (FFmpegError, OSError, MutagenError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ExportError(f"{path.name} cannot be written: {why}", metadata={"file": path.name}) from error


def _encode(path: Path, samples: Samples, audio_format: ExportFormat, fade_count: int) -> None:
    writer = CodecWriter(path, audio_format.codec, audio_format.container)

    def blocks(start: int, stop: int) -> Iterator[Samples]:
        for first in range(start, stop, BLOCK_SAMPLES):
            block = np.asarray(samples[first : min(first + BLOCK_SAMPLES, stop)])
            yield _faded(block, first, len(samples), fade_count)

    try:
        if audio_format.codec.frames_agree:
            encoder = EncodedParts(audio_format.codec, blocks, len(samples))
            with closing(encoder.packets()) as packets:
                writer.write_encoded(packets)
        else:
            for block in blocks(0, len(samples)):
                writer.write(block)
        writer.close()
    finally:
        writer.abandon()


def _faded(block: Samples, start: int, total_count: int, fade_count: int) -> Samples:
    """`block`, whose first sample is number `start` of `total_count`, with its part of the fades."""
    stop = start + len(block)
    if not fade_count or (start >= fade_count and stop <= total_count - fade_count):
        return block
    numbers = np.arange(start, stop)
    from_edge = np.minimum(numbers, total_count - 1 - numbers)
    phase = np.minimum((from_edge + 0.5) / fade_count, 1.0)
    gain = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)
    return block * gain[:, None]
