"""Samples in a file, read where somebody looks at them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import soundfile

from services.gateway.exports.codec import Samples


class StoredSamples:
    """The samples [count, channels] of an audio file; a slice of them is read when it is taken."""

    def __init__(self, path: Path) -> None:
        self._file = soundfile.SoundFile(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._file.frames)

    def __getitem__(self, part: slice) -> Samples:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"every {step}th sample; accepted: all of a part")
        self._file.seek(start)
        samples: Samples = self._file.read(max(stop - start, 0), dtype="float32", always_2d=True)
        return samples
