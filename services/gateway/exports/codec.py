"""A codec in its container, encoded by PyAV, whose wheel carries the encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from acestage.errors import InvalidArgumentError
from acestage.pcm import to_pcm
from acestage.song_audio import CHANNEL_COUNT, SAMPLE_RATE_HZ

Samples = npt.NDArray[np.float32]

CHANNEL_LAYOUT = "stereo"
TIME_BASE = Fraction(1, SAMPLE_RATE_HZ)

BLOCK_SAMPLES = 1 << 16
"""How many samples a channel are converted at a time: it bounds memory, whatever the length."""


class ByteSink(Protocol):
    """Where a stream goes. It must have no `seek`, or the containers come back to finish their heads."""

    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder of libavcodec, and the samples that it takes.

    Attributes:
        encoder: what libavcodec calls it.
        sample_kind: "float" as they come, "clipped" floats within ±1, "int16", or "int24" in the upper
            bits of int32.
        sample_format: libavutil's name for such samples; a "p" at the end is one plane a channel.
        bit_rate_bps: None where the codec loses nothing.
        options: what the encoder is told besides.
        frames_agree: whether encoders that begin at different samples come to write the same frames.
    """

    encoder: str
    sample_kind: Literal["float", "clipped", "int16", "int24"]
    sample_format: Literal["flt", "fltp", "s16", "s32"]
    bit_rate_bps: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    frames_agree: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A muxer of libavformat, and its options."""

    muxer: str
    options: Mapping[str, str] = field(default_factory=dict)


def frames_of(samples: Samples, codec: Codec, position: int) -> Iterator[av.AudioFrame]:
    """`samples` float32 [count, 2], full scale at ±1, as frames that the encoder of `codec` takes.

    Args:
        position: number of the first of the samples.

    Raises:
        InvalidArgumentError: they have another shape or type, or some are not finite.
    """
    check_shape(samples)
    for start in range(0, len(samples), BLOCK_SAMPLES):
        block = np.asarray(samples[start : start + BLOCK_SAMPLES])
        if not np.isfinite(block).all():
            raise InvalidArgumentError.at("samples", "are not all finite; accepted: numbers, 1 is full scale")
        frame = av.AudioFrame.from_ndarray(
            _converted(block, codec), format=codec.sample_format, layout=CHANNEL_LAYOUT
        )
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.time_base = TIME_BASE
        frame.pts = position + start
        yield frame


def check_shape(samples: Samples) -> None:
    """Raises `InvalidArgumentError` unless `samples` are float32 [count, 2]."""
    if samples.dtype != np.float32 or samples.ndim != 2 or samples.shape[1] != CHANNEL_COUNT:
        raise InvalidArgumentError.at(
            "samples",
            f"are {samples.dtype} of shape {list(samples.shape)}; "
            f"accepted: float32 of shape [count, {CHANNEL_COUNT}]",
        )


class CodecWriter:
    """Encodes samples to a sink or a file.

    `close` ends it properly. `abandon` lets go of the target after a failure, and does nothing after `close`.

    Raises:
        FFmpegError, ValueError: there is no such encoder, or the file cannot be written; an `OSError`
            too where the system said no.
    """

    def __init__(self, target: Path | ByteSink, codec: Codec, container: Container) -> None:
        self._codec = codec
        self._sample_count = 0
        # The prefix keeps libavformat from taking a name such as "concat:x" for one of its protocols.
        file: Any = f"file:{target.absolute()}" if isinstance(target, Path) else target
        options = {"fflags": "+bitexact", **container.options}
        self._output = av.open(file, "w", format=container.muxer, options=options)
        try:
            stream: Any = self._output.add_stream(
                codec.encoder,
                rate=SAMPLE_RATE_HZ,
                layout=CHANNEL_LAYOUT,
                format=codec.sample_format,
                options=dict(codec.options),
            )
            if codec.bit_rate_bps is not None:
                stream.bit_rate = codec.bit_rate_bps
        except BaseException:
            self.abandon()
            raise
        self._stream = stream

    def write(self, samples: Samples) -> None:
        """Encodes `samples` float32 [count, 2], full scale at ±1.

        Raises:
            InvalidArgumentError: they have another shape or type, or some are not finite.
        """
        for frame in frames_of(samples, self._codec, self._sample_count):
            self._output.mux(self._stream.encode(frame))
        self._sample_count += len(samples)

    def write_encoded(self, packets: Iterable[av.Packet[Any]]) -> None:
        """Takes all packets of a sound that another encoder of the codec gave, instead of `write`."""
        for packet in packets:
            packet.stream = self._stream
            self._output.mux(packet)

    def close(self) -> None:
        """Writes what the codec still has, and the end of the container."""
        if self._sample_count:
            self._output.mux(self._stream.encode(None))
        self._output.close()

    def abandon(self) -> None:
        """Closes the target; what is written is of no use."""
        with suppress(FFmpegError, OSError, ValueError):
            self._output.close()


def _converted(block: Samples, codec: Codec) -> npt.NDArray[Any]:
    """`block` as the frame of PyAV takes it: [channels, count] in planes, else [1, count x channels]."""
    values: npt.NDArray[Any] = block
    if codec.sample_kind == "clipped":
        values = np.clip(block, -1.0, 1.0)
    elif codec.sample_kind == "int16":
        values = to_pcm(block, 16).astype(np.int16)
    elif codec.sample_kind == "int24":
        values = to_pcm(block, 24) << 8
    return np.ascontiguousarray(values.T if codec.sample_format == "fltp" else values.reshape(1, -1))
