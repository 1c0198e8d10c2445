from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acestage.errors import AbortedError
from services.gateway.exports.codec import CodecWriter, Samples
from services.gateway.exports.encoder import StreamEncoder
from services.gateway.exports.errors import ExportError
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.live_take import BLOCK_SAMPLES, LiveTake
from services.gateway.outputs import live_encodings
from services.gateway.outputs.live_encodings import LiveEncodings

WAV = ExportFormat.wav32
SONG = np.random.default_rng(1).uniform(-0.5, 0.5, (3 * BLOCK_SAMPLES, 2)).astype(np.float32)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(in_time())


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[StreamEncoder]:
    """Those that were made."""
    made: list[StreamEncoder] = []

    class Counted(StreamEncoder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(live_encodings, "StreamEncoder", Counted)
    return made


async def whole(stream: AsyncGenerator[bytes, None]) -> bytes:
    parts = [part async for part in stream]
    assert all(parts)
    return b"".join(parts)


def samples_of(wav: bytes) -> Samples:
    return np.frombuffer(wav[-SONG.nbytes :], "<f4").reshape(-1, 2)


def test_all_who_listen_to_a_take_hear_one_encoder_from_the_first_sample_on(
    tmp_path: Path, encoders: list[StreamEncoder]
) -> None:
    async def listen() -> None:
        take, encodings = LiveTake(tmp_path), LiveEncodings()
        async with asyncio.TaskGroup() as group:
            early = [group.create_task(whole(encodings.follow(take, WAV))) for _ in range(2)]
            await take.write(0, SONG[:BLOCK_SAMPLES])
            leaves = encodings.follow(take, WAV)
            await anext(leaves)
            await leaves.aclose()
            await take.write(BLOCK_SAMPLES, SONG[BLOCK_SAMPLES:])
            late = group.create_task(whole(encodings.follow(take, WAV)))
            flac = group.create_task(whole(encodings.follow(take, ExportFormat.flac)))
            await asyncio.sleep(0)
            take.close(is_whole=True)
        np.testing.assert_array_equal(samples_of(late.result()), SONG)
        assert [task.result() for task in early] == [late.result()] * 2
        assert flac.result().startswith(b"fLaC")

    run(listen())
    assert len(encoders) == 2


def test_nothing_is_left_when_the_last_listener_leaves(tmp_path: Path, encoders: list[StreamEncoder]) -> None:
    async def listen() -> None:
        take, encodings = LiveTake(tmp_path), LiveEncodings()
        await take.write(0, SONG[:BLOCK_SAMPLES])
        before = len(os.listdir("/proc/self/fd"))
        streams = [encodings.follow(take, WAV) for _ in range(2)]
        firsts = [await anext(stream) for stream in streams]
        assert firsts[0] == firsts[1]
        for stream in streams:
            await stream.aclose()
        assert len(os.listdir("/proc/self/fd")) == before
        assert asyncio.all_tasks() == {asyncio.current_task()}
        again = encodings.follow(take, WAV)
        assert await anext(again) == firsts[0]
        await again.aclose()
        take.close(is_whole=False)

    run(listen())
    assert len(encoders) == 2


def test_a_take_that_is_not_made_to_its_end_breaks_every_stream(tmp_path: Path) -> None:
    async def listen() -> None:
        take, encodings = LiveTake(tmp_path), LiveEncodings()
        await take.write(0, SONG)
        streams = [encodings.follow(take, WAV) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        take.close(is_whole=False)
        for stream in streams:
            with pytest.raises(AbortedError, match="before all of its audio"):
                await whole(stream)

    run(listen())


def test_who_came_before_the_end_of_a_take_hears_all_of_it(tmp_path: Path) -> None:
    async def listen() -> None:
        take, encodings = LiveTake(tmp_path), LiveEncodings()
        await take.write(0, SONG)
        listening = [asyncio.ensure_future(whole(encodings.follow(take, WAV))) for _ in range(2)]
        await asyncio.sleep(0)  # both have asked, nothing is encoded
        take.close(is_whole=True)
        for heard in await asyncio.gather(*listening):
            np.testing.assert_array_equal(samples_of(heard), SONG)

    run(listen())


@pytest.mark.parametrize("fault", ["encoder", "disk"])
def test_a_fault_reaches_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async def listen() -> None:
        take, encodings = LiveTake(tmp_path), LiveEncodings()
        await take.write(0, SONG)
        if fault == "disk":
            monkeypatch.setattr(os, "pwrite", fail)
        else:
            monkeypatch.setattr(CodecWriter, "__init__", fail)
        streams = [asyncio.ensure_future(whole(encodings.follow(take, WAV))) for _ in range(2)]
        for stream in streams:
            with pytest.raises(ExportError, match="No space left"):
                await stream
        take.close(is_whole=False)

    run(listen())
