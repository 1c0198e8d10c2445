"""Bytes on disk that are read while more of them come."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.gateway.jobs.changes import Signal
from services.runtime.processes.finishing import finish


class GrowingFile:
    """One task writes, any number read. The file has no name, so nothing is left of it after a crash.

    Args:
        folder: on whose disk the bytes lie.

    Raises:
        OSError: no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._byte_count = 0
        self._is_closed = False
        self._keeper_count = 0
        self._signal = Signal()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    @property
    def byte_count(self) -> int:
        return self._byte_count

    async def write(self, offset: int, data: bytes) -> None:
        """Writes `data` from byte `offset` on; the same bytes may come twice.

        Raises:
            OSError: the disk is full, for example.
        """
        # The thread has to be done before anybody closes the file: its number may be another file's then.
        await finish(asyncio.to_thread(_write_all, self._file.fileno(), data, offset))
        self._byte_count = max(self._byte_count, offset + len(data))
        self._signal.give()

    def close(self) -> None:
        """No more bytes come. Nobody may begin to read any more, unless somebody keeps it open."""
        self._is_closed = True
        self._signal.give()
        self._close_if_unused()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Until the block ends `parts` may be asked for, closed or not."""
        self._keeper_count += 1
        try:
            yield
        finally:
            self._keeper_count -= 1
            self._close_if_unused()

    async def parts(self, max_byte_count: int) -> AsyncGenerator[bytes, None]:
        """All bytes from the first on, at most so many at a time, those to come too, until it is closed."""
        position = 0
        with self.kept_open():
            fd = self._file.fileno()
            while position < self._byte_count or not self._is_closed:
                if position == self._byte_count:
                    await self._signal.wait()
                    continue
                count = min(max_byte_count, self._byte_count - position)
                yield await finish(asyncio.to_thread(os.pread, fd, count, position))
                position += count

    def _close_if_unused(self) -> None:
        if self._is_closed and not self._keeper_count:
            self._file.close()


def _write_all(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written
