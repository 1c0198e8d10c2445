"""Audio on its way to a sink: nobody is held up, and every end is told."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from acestage.cli.players import Player
from acestage.cli.sinks import FileSink, PlayerSink
from acestage.cli.streaming import AudioStream, StreamClosed
from acestage.errors import FailedPreconditionError, InvalidArgumentError
from acestage.generation import AudioChunk, Generation, PreviewAudio
from acestage.wav_stream import wav_stream_header
from tests.unit.job_events import run

SAMPLES = np.arange(4000, dtype=np.float32).reshape(2000, 2)
END = cast(Generation, object.__new__(Generation))
"""The event after all audio; its content is of no concern here."""


def chunk(start: int, stop: int, item_index: int = 0) -> AudioChunk:
    return AudioChunk(item_index, start, SAMPLES[start:stop], 48_000)


class FakeSink:
    """Remembers what it gets.

    Attributes:
        may_write: cleared, writing blocks.
        error: what writing ends with.
    """

    def __init__(self) -> None:
        self.begun: tuple[int, int] | None = None
        self.samples = b""
        self.is_closed = False
        self.is_abandoned = False
        self.may_write = threading.Event()
        self.may_write.set()
        self.error: Exception | None = None

    def begin(self, sample_rate_hz: int, channel_count: int) -> None:
        self.begun = (sample_rate_hz, channel_count)

    def write(self, samples: bytes) -> None:
        self.may_write.wait()
        if self.error is not None:
            raise self.error
        self.samples += samples

    def close(self) -> None:
        self.is_closed = True

    def abandon(self) -> None:
        self.is_abandoned = True
        self.may_write.set()


def test_the_song_and_nothing_else_is_written_in_order() -> None:
    async def scenario() -> None:
        sink = FakeSink()
        async with AudioStream(sink) as stream:
            stream.hear(PreviewAudio(0, 0, SAMPLES, 48_000))
            for event in (chunk(0, 700), chunk(700, 2000), END):
                stream.hear(event)
            await stream.ended
        assert sink.begun == (48_000, 2)
        assert sink.samples == SAMPLES.tobytes()
        assert (sink.is_closed, sink.is_abandoned) == (True, False)

    run(scenario())


def test_a_sink_that_takes_nothing_holds_nobody_up_and_is_left() -> None:
    async def scenario() -> None:
        sink = FakeSink()
        sink.may_write.clear()
        async with AudioStream(sink) as stream:
            for event in (chunk(0, 700), chunk(700, 2000), END):
                stream.hear(event)
            assert not stream.ended.done()
        assert sink.is_abandoned
        assert stream.ended.cancelled()

    run(scenario())


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (BrokenPipeError(), StreamClosed),
        (OSError(28, "No space left on device"), FailedPreconditionError),
        (FailedPreconditionError("aplay ended"), FailedPreconditionError),
    ],
)
def test_the_end_of_a_sink_is_told(error: Exception, found: type[Exception]) -> None:
    async def scenario() -> None:
        sink = FakeSink()
        sink.error = error
        async with AudioStream(sink) as stream:
            stream.hear(chunk(0, 10))
            with pytest.raises(found):
                await stream.ended

    run(scenario())


def test_a_second_take_is_refused() -> None:
    async def scenario() -> None:
        async with AudioStream(FakeSink()) as stream:
            with pytest.raises(InvalidArgumentError, match="one take"):
                stream.hear(chunk(0, 10, item_index=1))

    run(scenario())


def test_a_named_pipe_gets_header_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    async def scenario() -> None:
        async with AudioStream(FileSink(str(path), with_header=True)) as stream:
            stream.hear(chunk(0, 2000))
            stream.hear(END)
            read = await asyncio.to_thread(path.read_bytes)
            await stream.ended
        assert read == wav_stream_header(48_000, 2) + SAMPLES.tobytes()

    run(scenario())


@pytest.mark.parametrize("takes_wav", [False, True])
def test_a_player_gets_all_samples_before_the_stream_ends(tmp_path: Path, takes_wav: bool) -> None:
    heard = tmp_path / "heard"

    async def scenario() -> None:
        player = Player("dd", f"of={heard} status=none", takes_wav)
        async with AudioStream(PlayerSink(player)) as stream:
            stream.hear(chunk(0, 2000))
            stream.hear(END)
            await stream.ended
        header = wav_stream_header(48_000, 2) if takes_wav else b""
        assert heard.read_bytes() == header + SAMPLES.tobytes()

    run(scenario())


def test_a_player_that_fails_is_named() -> None:
    async def scenario() -> None:
        sink = PlayerSink(Player("false", ""))
        async with AudioStream(sink) as stream:
            stream.hear(chunk(0, 2000))
            stream.hear(END)
            with pytest.raises(FailedPreconditionError, match="false ended with status 1"):
                await stream.ended
        assert sink.process is not None
        assert sink.process.stdin is not None
        assert sink.process.stdin.closed

    run(scenario())


def test_a_player_that_has_ended_leaves_no_pipe_behind() -> None:
    sink = PlayerSink(Player("true", ""))
    sink.begin(48_000, 2)
    assert sink.process is not None
    assert sink.process.wait(10) == 0
    sink.abandon()
    assert sink.process.stdin is not None
    assert sink.process.stdin.closed


def test_a_player_is_stopped_when_the_stream_is_left() -> None:
    async def scenario() -> None:
        begun = threading.Event()

        class Watched(PlayerSink):
            def begin(self, sample_rate_hz: int, channel_count: int) -> None:
                super().begin(sample_rate_hz, channel_count)
                begun.set()

        sink = Watched(Player("sleep", "600"))
        async with AudioStream(sink) as stream:
            stream.hear(chunk(0, 10))
            stream.hear(END)
            assert await asyncio.to_thread(begun.wait, 10)
        assert sink.process is not None
        assert sink.process.wait(10) != 0

    run(scenario())
