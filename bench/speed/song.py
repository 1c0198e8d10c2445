"""A song from end to end: through all services, and with the same engines in one process."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import torch

from acestage import AsyncClient
from acestage.generation_options import GenerationOptions
from acestage.planning import Quantization, as_quantization
from bench.songs import Song, numbered_caption, sing
from bench.speed.memory import watched
from bench.speed.one_process import OneProcess
from bench.speed.scope import Scope
from bench.stack import Setup, Stack

DURATION_S, QUICK_S = 30.0, 10.0
STEP_COUNT = 8
OTHER_SEEDS = 1000

SERVICES, NEW_SEED, ONE_PROCESS = "services", "services, another seed alone", "one process"
INT8 = "services, int8"


def measure(scope: Scope) -> dict[str, Any]:
    """Seconds of songs round by round, after one that warms up, and the memory of all processes in that one.

    A round makes three: one with a caption that was not there before, the same with another seed, both with
    services whose workers stay warm; and the first one again, without services. Then come as many with INT8
    weights, after one that places them. A quick run makes the first of the three alone, and shorter.
    """
    return asyncio.run(_measure(scope))


async def _measure(scope: Scope) -> dict[str, Any]:
    duration_s = QUICK_S if scope.is_quick else DURATION_S
    async with Stack.start(Setup(scope.checkpoint, threads=scope.thread_count)) as stack:
        async with watched(stack) as peaks:
            first = await _serve(stack.client, duration_s, 0, 0)
        start = next(start for start in first.starts if start.stage == "dit")
        if scope.is_quick:
            rounds = [{SERVICES: _times(await _serve(stack.client, duration_s, 1, 1))}]
        else:
            engines = OneProcess(
                scope.open(), getattr(torch, start.dtype), as_quantization(start.quantization)
            )
            await asyncio.to_thread(engines.sing, numbered_caption(0), duration_s, STEP_COUNT, 0)
            rounds = []
            for number in range(1, scope.round_count + 1):
                song = await _serve(stack.client, duration_s, number, number)
                again = await _serve(stack.client, duration_s, number, OTHER_SEEDS + number)
                alone = await asyncio.to_thread(
                    engines.sing, numbered_caption(number), duration_s, STEP_COUNT, number
                )
                rounds.append({SERVICES: _times(song), NEW_SEED: _times(again), ONE_PROCESS: asdict(alone)})
            # Not in turns with the others: none of them is to wait until other weights are placed.
            await _serve(stack.client, duration_s, 0, 0, "int8")
            for number, found in enumerate(rounds, start=1):
                song = await _serve(stack.client, duration_s, number, number, "int8")
                found[INT8] = _times(song)
    return {
        "duration_s": duration_s,
        "step_count": STEP_COUNT,
        "dtype": start.dtype,
        "first": _times(first),
        "rounds": rounds,
        "processes": peaks.to_json(
            {f"{report.stage}/worker": report.planned_bytes for report in first.reports}
        ),
    }


async def _serve(
    client: AsyncClient,
    duration_s: float,
    number: int,
    seed: int,
    quantization: Quantization = "none",
) -> Song:
    options: GenerationOptions = {
        "duration_s": duration_s,
        "step_count": STEP_COUNT,
        "seed": seed,
        "quantization": quantization,
    }
    return await sing(client, options, numbered_caption(number))


def _times(song: Song) -> dict[str, Any]:
    return {
        "last_step_s": song.last_step_s,
        "first_audio_s": song.first_audio_s,
        "total_s": song.total_s,
        "stages": [asdict(wake) for wake in song.wakes],
    }
