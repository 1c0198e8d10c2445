"""How long it takes to wake the worker of each stage.

A worker is woken by a fork, takes the device's lock and moves the weights to the device. Cold means a device
with one holder at a time, where every song wakes a worker of every stage; warm, one with room for all, where
every song but the first finds its weights in place.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from acestage.generation_options import GenerationOptions
from bench.songs import Wake, sing_in_turn
from bench.speed.scope import Scope
from bench.stack import SMALL_DEVICE_GB, Setup, Stack

OPTIONS: GenerationOptions = {"duration_s": 10.0, "step_count": 1}


def measure(scope: Scope) -> dict[str, Any]:
    """The starts of all stages, as many songs as there are rounds: cold, and then warm."""
    wakes = asyncio.run(_measure(scope))
    return {**OPTIONS, "small_device_gb": SMALL_DEVICE_GB, "wakes": [asdict(found) for found in wakes]}


async def _measure(scope: Scope) -> list[Wake]:
    found: list[Wake] = []
    for max_vram_gb in (SMALL_DEVICE_GB, None):
        setup = Setup(scope.checkpoint, max_vram_gb=max_vram_gb, threads=scope.thread_count)
        async with Stack.start(setup) as stack:
            # The first one fills the page cache.
            _, *songs = await sing_in_turn(stack.client, OPTIONS, scope.round_count + 1)
        found += [wake for song in songs for wake in song.wakes]
    return found
