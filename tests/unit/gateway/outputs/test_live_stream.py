from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from acestage.errors import AbortedError
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.live_take import LiveTake
from services.gateway.outputs.live_stream import encoded

SONG = np.random.default_rng(1).uniform(-0.5, 0.5, (100_000, 2)).astype(np.float32)


def heard(folder: Path, *, is_whole: bool) -> bytes:
    """By one who has just asked when the take is closed."""

    async def listen() -> bytes:
        take = LiveTake(folder / "take")
        await take.write(0, SONG)
        stream = encoded(take, ExportFormat.wav32)
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        take.close(is_whole)
        return b"".join([await first, *[part async for part in stream]])

    return asyncio.run(listen())


def test_who_asks_just_before_the_end_hears_all_of_a_take(tmp_path: Path) -> None:
    samples = np.frombuffer(heard(tmp_path, is_whole=True)[-SONG.nbytes :], "<f4")
    np.testing.assert_array_equal(samples.reshape(-1, 2), SONG)


def test_the_stream_of_a_take_that_is_not_made_to_its_end_breaks_off(tmp_path: Path) -> None:
    with pytest.raises(AbortedError, match="before all of its audio"):
        heard(tmp_path, is_whole=False)
