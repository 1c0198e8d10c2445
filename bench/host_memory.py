"""What the services take beside the device: `python -m bench.host_memory --checkpoint DIR`.

On the CPU the memory of the workers stands for that of the device. All other processes (the orchestrator, the
services of the stages and their preloads) are measured while they idle and many times while a song is made.
Only what the kernel cannot drop counts: mapped weights are files, and do not. A page that a preload shares
with its worker counts by halves, so "worst" also gives the sum as if the preloads shared nothing.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from acestage.generation import ProcessMemory
from acestage.generation_options import GenerationOptions
from acestage.settings import EMBEDDED_CHECKPOINT
from bench.results import mib, print_table, write_json
from bench.songs import sing
from bench.stack import Setup, Stack, is_worker
from services.runtime.processes.process_memory import measure, read_rollup

SAMPLE_INTERVAL_S = 0.2
LIMIT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Sample:
    """All processes but the workers at one moment.

    Attributes:
        memories: of each process.
        unshared_bytes: anonymous memory, as if each had its pages for itself.
    """

    memories: tuple[ProcessMemory, ...]
    unshared_bytes: int

    @property
    def anonymous_bytes(self) -> int:
        return sum(memory.anonymous_bytes for memory in self.memories)

    def to_json(self) -> dict[str, Any]:
        """Bytes by process, and their sums."""
        return {
            "anonymous_bytes": self.anonymous_bytes,
            "unshared_bytes": self.unshared_bytes,
            "processes": {
                memory.name: {"anonymous_bytes": memory.anonymous_bytes, "rss_bytes": memory.rss_bytes}
                for memory in self.memories
            },
        }


@dataclass(slots=True)
class Watch:
    """Samples taken again and again; keeps those with the most memory."""

    processes: dict[str, int]
    samples: list[Sample] = field(default_factory=list)

    def take(self) -> Sample:
        """Adds a sample. Blocks for some 50 ms, longer with many mapped weights."""
        found = [measure(name, pid) for name, pid in self.processes.items()]
        unshared_bytes = sum(read_rollup(pid).get("Anonymous", 0) for pid in self.processes.values())
        sample = Sample(tuple(memory for memory in found if memory is not None), unshared_bytes)
        self.samples.append(sample)
        return sample

    async def go_on(self) -> None:
        """Takes samples until it is cancelled."""
        while True:
            await asyncio.to_thread(self.take)
            await asyncio.sleep(SAMPLE_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured; `peak` is the sample with the most anonymous memory, `worst` the most unshared."""

    ready_s: float
    song_s: float
    device_bytes: dict[str, int]
    idle: Sample
    peak: Sample
    worst: Sample
    after: Sample


async def run(setup: Setup, options: GenerationOptions) -> Found:
    """Measures before, during and after one song."""
    async with Stack.start(setup) as stack:
        watch = Watch({name: pid for name, pid in (await stack.processes()).items() if not is_worker(name)})
        idle = await asyncio.to_thread(watch.take)
        watching = asyncio.create_task(watch.go_on())
        try:
            song = await sing(stack.client, options)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        workers = [m for report in song.reports for m in report.processes if is_worker(m.name)]
        return Found(
            ready_s=stack.ready_s,
            song_s=song.total_s,
            device_bytes={worker.name: worker.peak_rss_bytes for worker in workers},
            idle=idle,
            peak=max(watch.samples, key=lambda sample: sample.anonymous_bytes),
            worst=max(watch.samples, key=lambda sample: sample.unshared_bytes),
            after=await asyncio.to_thread(watch.take),
        )


def show(found: Found) -> None:
    """Prints a row for each process and one for their sum."""
    samples: Sequence[Sample] = (found.idle, found.peak, found.after)
    by_name = [{memory.name: memory for memory in sample.memories} for sample in samples]
    rows = [
        [
            name,
            *(mib(memories[name].anonymous_bytes) for memories in by_name),
            mib(by_name[1][name].rss_bytes),
        ]
        for name in by_name[0]
    ]
    rows.append(["all", *(mib(sample.anonymous_bytes) for sample in samples), ""])
    print_table(("anonymous MiB", "idle", "peak", "after", "rss at peak"), rows)
    print(f"worst, nothing shared: {mib(found.worst.unshared_bytes)} MiB of {mib(LIMIT_BYTES)}")
    for name, byte_count in found.device_bytes.items():
        print(f"{name}: {mib(byte_count)} MiB resident at its peak, the device's part")
    print(f"all served after {found.ready_s:.1f} s; the song took {found.song_s:.1f} s")


async def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.host_memory", description=__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--duration", type=float, default=30.0, help="of the song, in seconds")
    parser.add_argument("--steps", type=int, default=1)
    given = parser.parse_args()
    options: GenerationOptions = {"duration_s": given.duration, "step_count": given.steps, "seed": 0}
    found = await run(Setup(given.checkpoint), options)
    results = {
        "ready_s": found.ready_s,
        "song_s": found.song_s,
        "device_bytes": found.device_bytes,
        **{name: getattr(found, name).to_json() for name in ("idle", "peak", "worst", "after")},
    }
    write_json("host-memory", results)
    show(found)


if __name__ == "__main__":
    asyncio.run(main())
