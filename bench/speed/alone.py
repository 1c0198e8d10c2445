"""One stage's work in a process of its own, whose memory is that of the work: `python -m bench.speed.alone`.

Prints one JSON object: seconds, and by how many bytes the resident memory grew from before the weights were
there, once they were placed and at its peak. Mapped weights count as far as they were read.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acestage.checkpoints import Checkpoint
from acestage.generation import ProcessMemory
from acestage.planning import DEFAULT_TILE_FRAMES
from bench.speed import as_workers
from bench.speed.denoising import in_turn, random_conditioning
from bench.speed.scope import Scope
from services.dit import worker as dit
from services.dit.parameters import DenoiseParameters
from services.runtime.processes.process_memory import measure
from services.vae import worker as vae

WARM_UP_S = 10.0

Work = Callable[[float, int], dict[str, Any]]
"""Does the work of a stage for a song of so many seconds, and so many items."""


def dit_work(checkpoint: Checkpoint, dtype: torch.dtype) -> Work:
    """Two denoising steps, of which the first has in it what is done once a job."""
    worker = dit.load(checkpoint)
    as_workers.place("dit", worker, checkpoint, dtype, "none")
    width = worker.engine.transformer.condition_embedder.in_features

    def work(duration_s: float, item_count: int) -> dict[str, Any]:
        frame_count = math.ceil(duration_s * checkpoint.model.latent_frame_rate_hz)
        conditioning = random_conditioning(checkpoint, width, frame_count)
        parameters = DenoiseParameters(
            tuple(range(item_count)), step_count=2, guidance_scale=1.0, keeps_prompt=True
        )
        run = {"dit": worker.engine.denoise(conditioning, parameters)}
        first_s, later_s = in_turn(run)["dit"].steps_s
        return {"first_s": first_s, "seconds": later_s}

    return work


def vae_work(checkpoint: Checkpoint, dtype: torch.dtype) -> Work:
    """A decode with the default tiles."""
    worker = vae.load(checkpoint)
    as_workers.place("vae", worker, checkpoint, dtype, "none")
    model = checkpoint.model

    def work(duration_s: float, item_count: int) -> dict[str, Any]:
        frame_count = math.ceil(duration_s * model.latent_frame_rate_hz)
        latents = torch.randn(item_count, frame_count, model.latent_channel_count)
        begun = time.perf_counter()
        for _ in worker.engine.decode(latents, DEFAULT_TILE_FRAMES):
            pass
        return {"seconds": time.perf_counter() - begun}

    return work


WORK = {"dit": dit_work, "vae": vae_work}


def _memory() -> ProcessMemory:
    found = measure("alone")
    assert found is not None
    return found


@torch.no_grad()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.alone", description=__doc__)
    parser.add_argument("stage", choices=sorted(WORK))
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--duration", type=float, required=True, help="of the song, in seconds")
    parser.add_argument("--items", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    as_workers.take_environment("bench.speed.alone")
    scope = Scope(given.checkpoint, given.threads, 1, False)
    checkpoint, dtype = scope.open(), scope.dtype()
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts, see proc(5)
    before = _memory()
    work = WORK[given.stage](checkpoint, dtype)
    work(WARM_UP_S, 1)
    found = work(given.duration, given.items)
    found["peak_bytes"] = _memory().peak_rss_bytes - before.rss_bytes
    print(json.dumps(found))


if __name__ == "__main__":
    main()
