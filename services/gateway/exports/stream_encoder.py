"""Audio encoded while it is generated."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

from av.error import FFmpegError

from acestage.errors import ExportError
from services.gateway.exports.codec import CodecWriter, Samples
from services.gateway.exports.formats import ExportFormat


class _Outlet:
    """Keeps what the muxer wrote until it is fetched."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class StreamEncoder:
    """Turns pieces of audio of any length into the bytes of one stream. Use it with `with`.

    The bytes of all calls, joined, depend on the samples only, not on how they were cut. It computes: call it
    in a thread, one call at a time.

    Raises:
        ExportError: the encoder does not work here; see `usable_formats`.
    """

    def __init__(self, audio_format: ExportFormat) -> None:
        self._format = audio_format
        self._outlet = _Outlet()
        container = audio_format.stream_container
        try:
            self._writer = CodecWriter(
                self._outlet,
                audio_format.stream_codec,
                # Else libavformat gathers 32 KiB: 0.8 s of mp3.
                replace(container, options={"flush_packets": "1", **container.options}),
            )
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.abandon()

    def encode(self, samples: Samples) -> bytes:
        """What the codec gave for `samples` float32 [count, 2]; may be b"" while it gathers.

        Samples beyond ±1 are clipped, except in wav32.

        Raises:
            InvalidArgumentError: the samples have another shape or type, or some are not finite.
        """
        try:
            self._writer.write(samples)
        except FFmpegError as error:
            raise self._failed(error) from error
        return self._outlet.take()

    def finish(self) -> bytes:
        """The last bytes. Nothing can be encoded after it."""
        try:
            self._writer.close()
        except FFmpegError as error:
            raise self._failed(error) from error
        return self._outlet.take()

    def _failed(self, error: Exception) -> ExportError:
        return ExportError(
            f"{self._format} cannot be encoded: {error}", metadata={"format": self._format.value}
        )
