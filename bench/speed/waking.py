"""Waking the worker of each stage, as `bench.wake` measures it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from acestage.generation_options import GenerationOptions
from bench import wake
from bench.songs import Wake
from bench.speed.scope import Scope
from bench.stack import SMALL_DEVICE_GB, Setup

OPTIONS: GenerationOptions = {"duration_s": 10.0, "step_count": 1}


def measure(scope: Scope) -> dict[str, Any]:
    """The starts of all stages, as many songs as there are rounds: cold, and then warm."""
    wakes = asyncio.run(_measure(scope))
    return {**OPTIONS, "small_device_gb": SMALL_DEVICE_GB, "wakes": [asdict(found) for found in wakes]}


async def _measure(scope: Scope) -> list[Wake]:
    found = []
    for max_vram_gb in (SMALL_DEVICE_GB, None):
        setup = Setup(scope.checkpoint, max_vram_gb=max_vram_gb, threads=scope.thread_count)
        found += await wake.run(setup, OPTIONS, scope.round_count)
    return found
