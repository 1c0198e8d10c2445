"""Takes, encoded while they are being decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager

from acestage.errors import AbortedError
from services.gateway.exports.codec import Samples
from services.gateway.exports.encoder import StreamEncoder
from services.gateway.exports.errors import ExportError
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.growing_file import GrowingFile
from services.gateway.jobs.live_take import CHANNEL_COUNT, LiveTake
from services.gateway.outputs.running_gain import RunningGain
from services.runtime.processes.finishing import end, finish

_PART_BYTES = 1 << 16


class LiveEncodings:
    """Encodes a take in a format once, however many listen: a browser may ask for it twice to play it."""

    def __init__(self) -> None:
        self._going: dict[tuple[LiveTake, ExportFormat], _Encoding] = {}

    async def follow(self, take: LiveTake, audio_format: ExportFormat) -> AsyncGenerator[bytes, None]:
        """The stream of `take`, which is not closed yet, from its first sample on, as samples come. No part
        is empty.

        The encoder works while anybody listens. Nothing of it is left when the last one has closed this.

        Raises:
            AbortedError: the job ended before all of the take was there.
            ExportError: the encoder failed, or the disk is full.
        """
        key = (take, audio_format)
        encoding = self._going.get(key)
        if encoding is None:
            with _disk_faults():
                encoding = self._going[key] = _Encoding(take, audio_format)
        encoding.listener_count += 1
        try:
            with take.kept_open(), encoding.file.kept_open():
                async with aclosing(encoding.file.parts(_PART_BYTES)) as parts:
                    async for part in parts:
                        yield part
                await asyncio.wait([encoding.work])
                encoding.work.result()
        finally:
            encoding.listener_count -= 1
            if not encoding.listener_count:
                del self._going[key]
                await end(encoding.work)
                encoding.file.close()


class _Encoding:
    """A take that is being encoded: `work` fills `file`."""

    def __init__(self, take: LiveTake, audio_format: ExportFormat) -> None:
        self.listener_count = 0
        self.file = GrowingFile(take.folder)
        self.work = asyncio.create_task(self._fill(take, audio_format))

    async def _fill(self, take: LiveTake, audio_format: ExportFormat) -> None:
        gain = RunningGain(CHANNEL_COUNT)
        with ExitStack() as stack:
            stack.callback(self.file.close)
            encoder = await finish(
                asyncio.to_thread(
                    lambda: stack.enter_context(
                        StreamEncoder(audio_format, take.sample_rate_hz, CHANNEL_COUNT)
                    )
                )
            )
            async with aclosing(take.blocks()) as blocks:
                async for block in blocks:
                    await self._append(await finish(asyncio.to_thread(_encode, encoder, gain, block)))
            if not take.is_whole:
                raise AbortedError("the job ended before all of its audio was decoded")
            await self._append(await finish(asyncio.to_thread(_end, encoder, gain)))

    async def _append(self, data: bytes) -> None:
        if data:
            with _disk_faults():
                await self.file.write(self.file.byte_count, data)


@contextmanager
def _disk_faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"the stream cannot be kept on disk: {error.strerror}") from error


def _encode(encoder: StreamEncoder, gain: RunningGain, block: Samples) -> bytes:
    return encoder.encode(gain.apply(block))


def _end(encoder: StreamEncoder, gain: RunningGain) -> bytes:
    return encoder.encode(gain.flush()) + encoder.finish()
