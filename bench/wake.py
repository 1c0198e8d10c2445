"""How long it takes to wake a worker: `python -m bench.wake`.

A worker is woken by a fork, takes the device's lock and moves the weights to the device. Cold means a device
with one holder at a time, where every song wakes a worker of every stage; warm, one with room for all, where
every song but the first finds its weights in place. "wake" is what the stage reports as load time. On the
CPU that is not all: weights that keep their data type stay mapped files, whose pages the first job touches,
and kernels are compiled for it, so a cold job's compute time is longer too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict

from acestage.generation import STAGES
from acestage.generation_options import GenerationOptions
from acestage.settings import EMBEDDED_CHECKPOINT
from bench.results import print_table, spread, write_json
from bench.songs import Wake, sing_in_turn
from bench.stack import SMALL_DEVICE_GB, Setup, Stack


async def run(setup: Setup, options: GenerationOptions, song_count: int) -> list[Wake]:
    """The starts of all stages for `song_count` songs after a first one that fills the page cache."""
    async with Stack.start(setup) as stack:
        songs = await sing_in_turn(stack.client, options, song_count + 1)
        return [wake for song in songs[1:] for wake in song.wakes]


def show(found: Sequence[Wake]) -> None:
    """Prints a row for each stage, cold and warm."""
    rows = []
    for stage in STAGES:
        for is_warm in (False, True):
            of_stage = [wake for wake in found if (wake.stage, wake.is_warm) == (stage, is_warm)]
            if of_stage:
                columns = (
                    spread([wake.load_s * 1000 for wake in of_stage], 0),
                    spread([wake.lease_wait_s * 1000 for wake in of_stage], 0),
                    spread([wake.compute_s for wake in of_stage], 2),
                )
                rows.append([stage, "warm" if is_warm else "cold", str(len(of_stage)), *columns])
    print_table(("stage", "", "n", "wake ms", "lease wait ms", "compute s"), rows)


async def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.wake", description=__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--songs", type=int, default=10)
    parser.add_argument("--duration", type=float, default=10.0, help="of each song, in seconds")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of a worker")
    parser.add_argument("--int8", action="store_true", help="with weights in INT8, kept by the first song")
    parser.add_argument("--name", default="wake", help="of the file of results")
    given = parser.parse_args()
    options: GenerationOptions = {"duration_s": given.duration, "step_count": given.steps}
    if given.int8:
        options["quantization"] = "int8"
    found = []
    for max_vram_gb in (SMALL_DEVICE_GB, None):
        setup = Setup(given.checkpoint, max_vram_gb=max_vram_gb, threads=given.threads)
        found += await run(setup, options, given.songs)
    write_json(given.name, {"load_average": os.getloadavg()[0], "wakes": [asdict(wake) for wake in found]})
    show(found)


if __name__ == "__main__":
    asyncio.run(main())
