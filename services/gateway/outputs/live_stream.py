"""A take, encoded while it is being decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from acestage.errors import AbortedError
from services.gateway.exports.codec import Samples
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.stream_encoder import StreamEncoder
from services.gateway.jobs.live_take import LiveTake
from services.gateway.outputs.running_gain import RunningGain
from services.runtime.processes.finishing import finish


async def encoded(take: LiveTake, audio_format: ExportFormat) -> AsyncGenerator[bytes, None]:
    """The stream of `take`, which is not closed yet, from its first sample on, as samples come.

    No part is empty. Closing it ends the encoder; no thread works on when it is closed.

    Raises:
        AbortedError: the job ended before all of the take was there.
        ExportError: the encoder failed.
    """
    gain = RunningGain()
    async with aclosing(take.blocks()) as blocks:
        # Before anything else is awaited, or the take might be closed, and then there is nothing to read.
        block = await anext(blocks, None)
        with ExitStack() as stack:
            encoder = await finish(
                asyncio.to_thread(lambda: stack.enter_context(StreamEncoder(audio_format)))
            )
            while block is not None:
                if part := await finish(asyncio.to_thread(_encode, encoder, gain, block)):
                    yield part
                block = await anext(blocks, None)
            if not take.is_whole:
                raise AbortedError("the job ended before all of its audio was decoded")
            if part := await finish(asyncio.to_thread(_end, encoder, gain)):
                yield part


def _encode(encoder: StreamEncoder, gain: RunningGain, block: Samples) -> bytes:
    return encoder.encode(gain.apply(block))


def _end(encoder: StreamEncoder, gain: RunningGain) -> bytes:
    return encoder.encode(gain.flush()) + encoder.finish()
