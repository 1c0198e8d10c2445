"""From uploaded audio to what the model works on: 48 kHz stereo in float32.

Audio passes in blocks, so memory does not grow with it. What a decoder makes of bytes from strangers cannot
be foreseen: `audio_decoding` runs this in a process of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from acestage.checks import Checks
from acestage.errors import InvalidArgumentError
from acestage.planning import MAX_DURATION_S
from acestage.song_audio import CHANNEL_COUNT, SAMPLE_RATE_HZ
from services.orchestrator.song.audio_meter import SILENCE
from services.orchestrator.song.sample_measure import SampleMeasure
from services.orchestrator.uploads.audio_facts import LEAST_DURATION_S, AudioFacts, RawFormat
from services.orchestrator.uploads.audio_mixing import weights
from services.orchestrator.uploads.audio_sources import Block, Source, open_source

LEAST_SAMPLE_RATE_HZ = 4_000
MOST_SAMPLE_RATE_HZ = 384_000
MOST_CHANNEL_COUNT = 16
MOST_PEAK = 8.0
"""Full scale is 1. A mix that was never limited stays below this; samples in units of an integer do not."""

_MISSING_S = 0.05
"""Encoders pad, so lengths differ by up to this much from what headers say."""


def take_in(path: Path, raw: RawFormat | None, destination: BinaryIO) -> AudioFacts:
    """Writes the audio in the file `path` to `destination`: interleaved stereo, float32, 48 kHz.

    Args:
        path: the file, whose name does not matter.
        raw: what the samples are where the file has nothing but samples; None where it says so by itself.
        destination: where samples go, from its present position on.

    Raises:
        InvalidArgumentError: it is no audio that can be used; a field of `UploadRequest` is named.
        OSError: `destination` cannot be written.
    """
    if raw is not None:
        check_raw(raw, path.stat().st_size)
    with open_source(path, raw) as source:
        _check_format(source.sample_rate_hz, source.channel_count)
        if source.frame_count is not None:
            seconds = source.frame_count / source.sample_rate_hz
            _check_most(source.frame_count, source.sample_rate_hz, f"{seconds:.10g} s by its header")
        mix = weights(source.channel_count, source.container)
        resampled = _Resampled(destination, source.sample_rate_hz)
        frame_count = 0
        peak = 0.0
        for block in source.blocks():
            peak = max(peak, _checked_peak(block, frame_count / source.sample_rate_hz))
            frame_count += len(block)
            _check_most(frame_count, source.sample_rate_hz, f"more than {MAX_DURATION_S} s")
            resampled.add(block if source.channel_count == CHANNEL_COUNT else block @ mix)
        _check_least(frame_count, source)
        resampled.finish()
        measure = resampled.measure
        return AudioFacts(
            audio_id=f"a{measure.digest.hexdigest()[:32]}",
            sample_count=measure.sample_count,
            peak=measure.peak,
            rms=measure.rms,
            original_format=source.label,
            original_sample_rate_hz=source.sample_rate_hz,
            original_channel_count=source.channel_count,
            warnings=tuple(_warnings(source, frame_count, peak)),
        )


def check_raw(raw: RawFormat, byte_count: int | None = None) -> None:
    """Raises `InvalidArgumentError` where such samples, or so many bytes of them, are not accepted."""
    _check_format(
        raw.sample_rate_hz, raw.channel_count, "header.raw.sample_rate_hz", "header.raw.channel_count"
    )
    frame_bytes = 4 * raw.channel_count
    if byte_count is not None and byte_count % frame_bytes:
        raise _refused(
            f"has {byte_count} bytes; accepted: a multiple of {frame_bytes}, 4 for each of the "
            f"{raw.channel_count} channels of a frame"
        )


def most_raw_bytes(raw: RawFormat) -> int:
    """Bytes of the longest audio in the format `raw`."""
    return MAX_DURATION_S * raw.sample_rate_hz * raw.channel_count * 4


def _refused(description: str) -> InvalidArgumentError:
    return InvalidArgumentError.at("data", description)


def _check_format(
    sample_rate_hz: int, channel_count: int, rate_field: str = "data", channel_field: str = "data"
) -> None:
    checks = Checks()
    checks.require(
        LEAST_SAMPLE_RATE_HZ <= sample_rate_hz <= MOST_SAMPLE_RATE_HZ,
        rate_field,
        f"has {sample_rate_hz} samples a second; accepted: {LEAST_SAMPLE_RATE_HZ} to {MOST_SAMPLE_RATE_HZ}",
    )
    checks.require(
        1 <= channel_count <= MOST_CHANNEL_COUNT,
        channel_field,
        f"has {channel_count} channels; accepted: 1 to {MOST_CHANNEL_COUNT}",
    )
    checks.done()


def _check_most(frame_count: int, sample_rate_hz: int, how_long: str) -> None:
    if frame_count > MAX_DURATION_S * sample_rate_hz:
        raise _refused(f"lasts {how_long}; accepted: {LEAST_DURATION_S} to {MAX_DURATION_S} s")


def _check_least(frame_count: int, source: Source) -> None:
    if frame_count < LEAST_DURATION_S * source.sample_rate_hz:
        why = f" ({source.problem})" if source.problem else ""
        seconds = frame_count / source.sample_rate_hz
        raise _refused(f"lasts {seconds:.6g} s{why}; accepted: {LEAST_DURATION_S} to {MAX_DURATION_S} s")


def _checked_peak(block: Block, start_s: float) -> float:
    peak = float(np.abs(block).max())
    if not math.isfinite(peak):
        raise _refused(f"has a sample that is no finite number, soon after {start_s:.2f} s")
    if peak > MOST_PEAK:
        raise _refused(
            f"has a sample of {peak:.6g}, soon after {start_s:.2f} s; accepted: up to {MOST_PEAK:g} either "
            "way, where 1 is full scale. Divide what is in units of 16-bit integers by 32768"
        )
    return peak


def _warnings(source: Source, frame_count: int, peak: float) -> Iterator[str]:
    if peak < SILENCE:
        yield "the audio is silent"
    if peak > 1.0:
        yield f"samples go up to {peak:.3g}, above full scale"
    if source.channel_count > CHANNEL_COUNT:
        yield f"{source.channel_count} channels were mixed down to {CHANNEL_COUNT}"
    read_s = frame_count / source.sample_rate_hz
    missing_s = (source.frame_count or 0) / source.sample_rate_hz - read_s
    if source.problem or missing_s > _MISSING_S:
        why = source.problem or f"its header promises {missing_s:.2f} s more"
        yield f"the file is cut off or damaged, {read_s:.2f} s of it were read: {why}"
    elif source.unread_bytes:
        unread = f"the {source.unread_bytes} bytes behind them are another one"
        yield f"{read_s:.2f} s of the file were read; {unread}"


class _Resampled:
    """Stereo at any rate in, 48 kHz out to a file, measured on its way."""

    def __init__(self, destination: BinaryIO, sample_rate_hz: int) -> None:
        self._destination = destination
        self._stream = (
            None
            if sample_rate_hz == SAMPLE_RATE_HZ
            else soxr.ResampleStream(sample_rate_hz, SAMPLE_RATE_HZ, CHANNEL_COUNT, quality="VHQ")
        )
        self.measure = SampleMeasure()

    def add(self, block: Block) -> None:
        """Takes samples [frames, 2]."""
        self._write(block if self._stream is None else self._stream.resample_chunk(block))

    def finish(self) -> None:
        """Writes what the resampler still has."""
        if self._stream is not None:
            self._write(self._stream.resample_chunk(np.empty((0, CHANNEL_COUNT), np.float32), last=True))

    def _write(self, block: Block) -> None:
        if not len(block):
            return
        data = np.ascontiguousarray(block, dtype="<f4")
        self._destination.write(data.data)
        self.measure.add(data)
