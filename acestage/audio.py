"""Audio that an orchestrator keeps for requests to work on: what it says of it, and how it is sent there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from acestage.errors import InvalidArgumentError
from acestage.protos.audio.v1 import audio_pb2 as pb

CHUNK_BYTES = 1 << 20
AUDIO_ID = re.compile(r"a[0-9a-f]{32}")
"""What requests name uploaded audio by: "a", and 32 hex digits of the SHA-256 of its samples."""
_MOST_HZ = 2**31 - 1

AudioSource: TypeAlias = "str | os.PathLike[str] | BinaryIO | npt.NDArray[np.floating[Any]]"
"""The path of an audio file, such a file open for reading, or samples [count] or [count, channels] in
floating point, where 1 is full scale."""

UploadProgress: TypeAlias = Callable[[int, int | None], Any]
"""Hears the bytes sent, and the bytes in all where that is known."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Uploaded audio, as the model gets it: 48 kHz stereo.

    Attributes:
        audio_id: what requests name it by. The same samples have the same id.
        sample_count: per channel.
        original_format: as it came, such as "MP3 MPEG_LAYER_III"; likewise the fields below.
        peak: the largest absolute sample, where 1 is full scale.
        warnings: for people, for example that the audio is silent.
    """

    audio_id: str
    duration_s: float
    sample_count: int
    sample_rate_hz: int
    channel_count: int
    original_format: str
    original_sample_rate_hz: int
    original_channel_count: int
    peak: float
    rms: float
    warnings: tuple[str, ...]

    @classmethod
    def from_pb(cls, audio: pb.Audio) -> Audio:
        return cls(
            audio_id=audio.audio_id,
            duration_s=audio.duration_s,
            sample_count=audio.sample_count,
            sample_rate_hz=audio.sample_rate_hz,
            channel_count=audio.channel_count,
            original_format=audio.original_format,
            original_sample_rate_hz=audio.original_sample_rate_hz,
            original_channel_count=audio.original_channel_count,
            peak=audio.peak,
            rms=audio.rms,
            warnings=tuple(audio.warnings),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Upload:
    """The messages that carry audio to an orchestrator. Use it with `with`, and iterate over it once.

    An error on the way, be it of the file or of `on_progress`, must not look like the end of the file. It is
    kept in `error`, and the last message is an empty one, which every orchestrator refuses. The block then
    ends with that error in the place of the call's own.

    Args:
        source: what to send.
        sample_rate_hz: that of samples; must be left out for files.
        on_progress: see `UploadProgress`.

    Raises:
        InvalidArgumentError: there is nothing to read, or no message can hold the rate.
    """

    def __init__(
        self,
        source: AudioSource,
        sample_rate_hz: float | None = None,
        on_progress: UploadProgress | None = None,
    ) -> None:
        self.error: Exception | None = None
        self._on_progress = on_progress
        self._stack = ExitStack()
        self._header = pb.UploadHeader()
        self._name = ""
        self._file: BinaryIO | None = None
        self._samples = memoryview(b"")
        self._total_bytes: int | None = None
        is_array = isinstance(source, np.ndarray)
        if not (is_array or isinstance(source, str | os.PathLike) or hasattr(source, "read")):
            raise _unfit(source)
        if is_array != (sample_rate_hz is not None):
            accepted = "a number of samples a second" if is_array else "None: a file says it by itself"
            raise InvalidArgumentError.at("sample_rate_hz", f"is {sample_rate_hz}; accepted: {accepted}")
        if isinstance(source, np.ndarray):
            self._take_samples(source, sample_rate_hz or 0)
        else:
            self._open(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self.error is not None and isinstance(error, Exception):
            raise self.error from error  # it is why the call failed

    def __iter__(self) -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=self._header)
        try:
            sent_bytes = 0
            for chunk in self._chunks():
                yield pb.UploadRequest(data=chunk)
                sent_bytes += len(chunk)
                if self._on_progress is not None:
                    self._on_progress(sent_bytes, self._total_bytes)
        except Exception as error:
            self.error = error
            yield pb.UploadRequest()

    def _chunks(self) -> Iterator[bytes]:
        if self._file is None:
            for start in range(0, len(self._samples), CHUNK_BYTES):
                yield bytes(self._samples[start : start + CHUNK_BYTES])
            return
        try:
            while chunk := self._file.read(CHUNK_BYTES):
                yield chunk
        except (OSError, ValueError) as error:
            raise _unreadable(self._name, error) from error

    def _take_samples(self, samples: npt.NDArray[np.floating[Any]], sample_rate_hz: float) -> None:
        if samples.ndim not in (1, 2) or not np.issubdtype(samples.dtype, np.floating):
            raise InvalidArgumentError.at(
                "source",
                f"is {samples.dtype} of shape {list(samples.shape)}; accepted: floating point of shape "
                "[samples] or [samples, channels], where 1 is full scale",
            )
        channel_count = samples.shape[1] if samples.ndim == 2 else 1
        self._header.raw.sample_rate_hz = _whole(sample_rate_hz)
        self._header.raw.channel_count = channel_count
        self._samples = memoryview(np.ascontiguousarray(samples, "<f4").tobytes())
        self._total_bytes = len(self._samples)

    def _open(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        if not isinstance(source, str | os.PathLike):
            self._file = source
            self._name = Path(str(getattr(source, "name", ""))).name
            self._check_reading(source)
            return
        path = Path(source)
        self._name = path.name
        try:
            self._file = self._stack.enter_context(path.open("rb"))
            self._total_bytes = os.fstat(self._file.fileno()).st_size
        except (OSError, ValueError) as error:
            raise _unreadable(str(path), error) from error

    def _check_reading(self, file: BinaryIO) -> None:
        try:
            nothing: object = file.read(0)
        except (OSError, ValueError) as error:
            raise _unreadable(self._name, error) from error
        if not isinstance(nothing, bytes):
            raise _unfit(file)


def _whole(sample_rate_hz: float) -> int:
    """As a message holds it; the orchestrator says which rates it takes."""
    try:
        whole = int(sample_rate_hz)
        if whole == sample_rate_hz and abs(whole) <= _MOST_HZ:
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidArgumentError.at(
        "sample_rate_hz", f"is {sample_rate_hz!r}; accepted: a whole number up to {_MOST_HZ}"
    )


def _unfit(source: object) -> InvalidArgumentError:
    return InvalidArgumentError.at(
        "source",
        f"is {type(source).__name__}; accepted: the path of a file, a file open for reading bytes "
        "(io.BytesIO holds those in memory), or a numpy array of samples",
    )


def _unreadable(name: str, error: OSError | ValueError) -> InvalidArgumentError:
    why = getattr(error, "strerror", None) or error
    return InvalidArgumentError.at("source", f"{name} cannot be read: {why}")
