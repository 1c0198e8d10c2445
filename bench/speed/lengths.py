"""What a song costs by its length and by the size of its batch: time, and memory next to its plan."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

from acestage.planning import DEFAULT_TILE_FRAMES, StageMemory, tile_ways
from bench.speed.scope import Scope, name_of
from services.dit import worker as dit
from services.vae import worker as vae

DURATIONS_S = (10, 30, 60, 120, 240, 600)
BATCH_DURATION_S = 30
BATCH_SIZES = (1, 2, 4)
STAGES = ("dit", "vae")

TIMEOUT_S = 3600.0


def measure(scope: Scope) -> dict[str, Any]:
    """Each length and each batch once, every one in a process of its own."""
    plans = Plans(scope)
    return {
        "dtype": name_of(scope.dtype()),
        "tile_frame_count": DEFAULT_TILE_FRAMES,
        "lengths": [_row(scope, plans, duration_s, 1) for duration_s in DURATIONS_S],
        "batch_duration_s": BATCH_DURATION_S,
        "batches": [_row(scope, plans, BATCH_DURATION_S, count) for count in BATCH_SIZES],
    }


class Plans:
    """What the planner counts for a stage; it always counts the longest prompt."""

    def __init__(self, scope: Scope) -> None:
        checkpoint, dtype = scope.open(), scope.dtype()
        self._frame_rate_hz = checkpoint.model.latent_frame_rate_hz
        self._memories: dict[str, StageMemory] = {
            "dit": dit.without_weights(checkpoint).memory(dtype, scope.thread_count),
            "vae": vae.without_weights(checkpoint).memory(dtype, scope.thread_count),
        }

    def total_bytes(self, stage: str, duration_s: float, item_count: int) -> int:
        """For a song of `duration_s`, without guidance."""
        frame_count = math.ceil(duration_s * self._frame_rate_hz)
        memory = self._memories[stage]
        if stage == "dit":
            return memory.total_bytes("single", frame_count, "none", item_count)
        _, total_bytes = tile_ways(memory, min(frame_count, DEFAULT_TILE_FRAMES))[0]
        return total_bytes


def _row(scope: Scope, plans: Plans, duration_s: int, item_count: int) -> dict[str, Any]:
    return {
        "duration_s": duration_s,
        "item_count": item_count,
        **{
            stage: {
                **_alone(scope, stage, duration_s, item_count),
                "planned_bytes": plans.total_bytes(stage, duration_s, item_count),
            }
            for stage in STAGES
        },
    }


def _alone(scope: Scope, stage: str, duration_s: int, item_count: int) -> dict[str, Any]:
    """What `bench.speed.alone` says."""
    command = [sys.executable, "-m", "bench.speed.alone", stage, "--checkpoint", scope.checkpoint]
    for name, value in (("duration", duration_s), ("items", item_count), ("threads", scope.thread_count)):
        command += [f"--{name}", str(value)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_S)
    found: dict[str, Any] = json.loads(ended.stdout)
    print(f"{stage}, {duration_s} s, batch {item_count}: {found['seconds']:.2f} s", flush=True)
    return found
