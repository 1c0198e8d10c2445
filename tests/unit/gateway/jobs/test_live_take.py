from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from services.gateway.jobs.live_take import BLOCK_SAMPLES, LiveTake

Samples = npt.NDArray[np.float32]


def noise(count: int) -> Samples:
    return np.random.default_rng(1).standard_normal((count, 2)).astype(np.float32)


async def read(take: LiveTake) -> Samples:
    blocks = [block async for block in take.blocks()]
    assert all(0 < len(block) <= BLOCK_SAMPLES for block in blocks)
    return np.concatenate(blocks)


def test_readers_get_all_samples_whenever_they_come(tmp_path: Path) -> None:
    samples = noise(BLOCK_SAMPLES * 2 + 77)

    async def run() -> list[Samples]:
        take = LiveTake(tmp_path / "take")
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            early = group.create_task(read(take))
            await asyncio.sleep(0)
            for start in range(0, len(samples), 50_001):
                await take.write(start, samples[start : start + 50_001])
            late = group.create_task(read(take))
            await take.write(0, samples[:10])  # told again after a reconnection
            await asyncio.sleep(0)
            take.close(is_whole=True)
        return [early.result(), late.result()]

    for heard in asyncio.run(run()):
        np.testing.assert_array_equal(heard, samples)


def test_the_file_goes_at_the_end_and_who_reads_keeps_it(tmp_path: Path) -> None:
    samples = noise(BLOCK_SAMPLES + 1)

    async def run() -> Samples:
        take = LiveTake(tmp_path / "take")
        await take.write(0, samples)
        blocks = take.blocks()
        first = await anext(blocks)
        take.close(is_whole=True)
        assert not (tmp_path / "take").exists()
        return np.concatenate([first, *[block async for block in blocks]])

    np.testing.assert_array_equal(asyncio.run(run()), samples)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    async def run() -> None:
        take = LiveTake(tmp_path / "take")
        await take.write(0, noise(10))
        blocks = take.blocks()
        await anext(blocks)
        await blocks.aclose()
        take.close(is_whole=True)
        take.close(is_whole=True)
        assert [block async for block in take.blocks()] == []

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_an_error_of_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    async def run() -> None:
        take = LiveTake(tmp_path / "take")
        try:
            await take.write(0, noise(10))
        finally:
            take.close(is_whole=True)

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(run())
