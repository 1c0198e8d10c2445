"""The samples of a take while it is being decoded, in a file that grows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acestage.song_audio import CHANNEL_COUNT, SAMPLE_RATE_HZ
from services.runtime.processes.announcer import Announcer
from services.runtime.processes.finishing import finish

_FRAME_BYTES = 4 * CHANNEL_COUNT
BLOCK_SAMPLES = SAMPLE_RATE_HZ


class LiveTake:
    """Samples [n, 2], float32, before normalisation. One task writes, any number read.

    Whoever reads holds the file open, so it may be removed meanwhile.

    Args:
        path: of the file, which is made here.

    Attributes:
        is_whole: all samples came; until it is closed, and after a failure, they have not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_whole = False
        self._sample_count = 0
        self._is_closed = False
        self._news = Announcer()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    async def write(self, start_sample: int, samples: npt.NDArray[np.float32]) -> None:
        """Writes samples at their place; the same ones may come twice.

        Raises:
            OSError: the disk is full, for example.
        """
        data = np.ascontiguousarray(samples, "<f4").tobytes()
        # The thread has to be done before anybody closes the file: its number may be another file's then.
        await finish(asyncio.to_thread(_write_all, self._fd, data, start_sample * _FRAME_BYTES))
        self._sample_count = max(self._sample_count, start_sample + len(samples))
        self._news.announce()

    def close(self, is_whole: bool) -> None:
        """No more samples come; the file goes, but for those who read it now."""
        if not self._is_closed:
            self._is_closed = True
            self.is_whole = is_whole
            self._news.announce()
            self.path.unlink(missing_ok=True)
            os.close(self._fd)

    async def blocks(self) -> AsyncGenerator[npt.NDArray[np.float32], None]:
        """All samples from the first on, a second or less at a time, until the take is closed."""
        if self._is_closed:
            return
        fd = os.dup(self._fd)
        position = 0
        try:
            while position < self._sample_count or not self._is_closed:
                if position == self._sample_count:
                    await self._news.next.wait()
                    continue
                count = min(BLOCK_SAMPLES, self._sample_count - position)
                yield await finish(asyncio.to_thread(_read, fd, position, count))
                position += count
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written


def _read(fd: int, position: int, count: int) -> npt.NDArray[np.float32]:
    data = os.pread(fd, count * _FRAME_BYTES, position * _FRAME_BYTES)
    return np.frombuffer(data, "<f4").reshape(-1, CHANNEL_COUNT)
