"""The most memory of each process of the services while something is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.stack import Stack

SAMPLE_INTERVAL_S = 1.0
"""A look takes a tenth of a second of a CPU, which the song lacks: with full-size weights some 5 % of it."""


@dataclass(slots=True)
class Peaks:
    """By process: the peak of its resident memory, and the most anonymous memory of all samples, in bytes."""

    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    anonymous_bytes: dict[str, int] = field(default_factory=dict)

    async def sample(self, stack: Stack) -> None:
        """Looks at all processes that live now, workers included."""
        for memory in await stack.memories():
            name = memory.name
            self.peak_rss_bytes[name] = max(self.peak_rss_bytes.get(name, 0), memory.peak_rss_bytes)
            self.anonymous_bytes[name] = max(self.anonymous_bytes.get(name, 0), memory.anonymous_bytes)

    def to_json(self, planned_bytes: dict[str, int]) -> list[dict[str, Any]]:
        """A row for each process; 0 is planned where nothing is."""
        return [
            {
                "name": name,
                "peak_rss_bytes": peak_rss_bytes,
                "anonymous_bytes": self.anonymous_bytes[name],
                "planned_bytes": planned_bytes.get(name, 0),
            }
            for name, peak_rss_bytes in self.peak_rss_bytes.items()
        ]


@asynccontextmanager
async def watched(stack: Stack) -> AsyncIterator[Peaks]:
    """Takes samples while the block runs, and one at its end."""
    peaks = Peaks()
    watching = asyncio.create_task(_go_on(peaks, stack))
    try:
        yield peaks
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    await peaks.sample(stack)


async def _go_on(peaks: Peaks, stack: Stack) -> None:
    while True:
        await peaks.sample(stack)
        await asyncio.sleep(SAMPLE_INTERVAL_S)
