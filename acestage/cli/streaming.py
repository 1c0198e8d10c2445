"""A song on its way to a sink while it is being made."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from types import TracebackType
from typing import Self

from acestage.cli.sinks import Sink
from acestage.errors import AcestageError, FailedPreconditionError, InvalidArgumentError
from acestage.generation import AudioChunk, Generation, GenerationEvent


class StreamClosed(Exception):
    """Whoever listened to the stream has closed it."""


class AudioStream:
    """Writes the samples of one take to `sink`, before normalisation, in a thread of its own: a pipe that
    nobody reads from holds up neither the events nor Ctrl-C. What waits is audio that the client keeps
    anyway. Use with `async with`: on leaving, what was not written yet is given up.

    Attributes:
        ended: done when all was taken, or with the error: `StreamClosed`, or one of our tree.
    """

    def __init__(self, sink: Sink) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._chunks: queue.SimpleQueue[AudioChunk | None] = queue.SimpleQueue()

    def hear(self, event: GenerationEvent) -> None:
        """Takes the song's audio out of a job's events.

        Raises:
            InvalidArgumentError: the job has several takes.
        """
        match event:
            case AudioChunk(item_index=0):
                self._chunks.put(event)
            case AudioChunk():
                raise InvalidArgumentError.at("stream", "has several takes; accepted: jobs of one take")
            case Generation():
                self._chunks.put(None)

    async def __aenter__(self) -> Self:
        # A daemon, so that a write that never returns does not keep the process from ending.
        threading.Thread(target=self._work, name="audio-stream", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended.done():
            self.ended.exception()  # whoever is concerned has heard of it
        else:
            self.ended.cancel()
            self._sink.abandon()

    def _work(self) -> None:
        found: Exception | None = None
        try:
            self._write_all()
        except BrokenPipeError:
            found = StreamClosed()
        except AcestageError as error:
            found = error
        except OSError as error:
            found = FailedPreconditionError(f"--stream: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._end, found)

    def _write_all(self) -> None:
        has_begun = False
        while (chunk := self._chunks.get()) is not None:
            if not has_begun:
                self._sink.begin(chunk.sample_rate_hz, chunk.samples.shape[1])
                has_begun = True
            self._sink.write(chunk.samples.astype("<f4", copy=False).tobytes())
        self._sink.close()

    def _end(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
