"""The samples of a take while it is being decoded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.gateway.jobs.growing_file import GrowingFile

CHANNEL_COUNT = 2
_FRAME_BYTES = 4 * CHANNEL_COUNT
BLOCK_SAMPLES = 48_000


class LiveTake:
    """Samples [n, 2], float32, before normalisation. One task writes, any number read.

    Args:
        folder: on whose disk they lie meanwhile.

    Attributes:
        is_whole: all samples came; until it is closed, and after a failure, they have not.

    Raises:
        OSError: no file can be made in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sample_rate_hz = 48_000
        self.is_whole = False
        self._file = GrowingFile(folder)

    async def write(self, start_sample: int, samples: npt.NDArray[np.float32]) -> None:
        """Writes samples at their place; the same ones may come twice.

        Raises:
            OSError: the disk is full, for example.
        """
        await self._file.write(start_sample * _FRAME_BYTES, np.ascontiguousarray(samples, "<f4").tobytes())

    def close(self, is_whole: bool) -> None:
        """No more samples come. Nobody may begin to read any more, unless somebody keeps it open."""
        self.is_whole = is_whole
        self._file.close()

    def kept_open(self) -> AbstractContextManager[None]:
        """Until the block ends `blocks` may be asked for, closed or not."""
        return self._file.kept_open()

    async def blocks(self) -> AsyncGenerator[npt.NDArray[np.float32], None]:
        """All samples from the first on, a second or less at a time, until the take is closed."""
        async with aclosing(self._file.parts(BLOCK_SAMPLES * _FRAME_BYTES)) as parts:
            async for part in parts:
                yield np.frombuffer(part, "<f4").reshape(-1, CHANNEL_COUNT)
