"""`python -m services.planner`: prints a plan, or the error, as one JSON object."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from acestage.checkpoints.published import language_model_configs
from acestage.errors import AcestageError
from acestage.generation import STAGES
from acestage.planning import LanguageModelMemory, StageMemory, Wishes, make_plan
from acestage.settings import DTypeChoice, QuantizationChoice
from services.planner.architecture import find_architecture, stored_dtype
from services.runtime.devices import resolve_device, resolve_dtype
from services.runtime.stage_worker import StageWorker


def main() -> None:
    """Plans what the arguments say. Their ranges are the caller's business."""
    parser = argparse.ArgumentParser(prog="python -m services.planner", description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--checkpoints-dir", type=Path, required=True)
    parser.add_argument("--variant")
    parser.add_argument("--device-bytes", type=int, required=True)
    parser.add_argument("--duration", type=float, required=True, help="seconds")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--quantization", choices=get_args(QuantizationChoice), default="auto")
    parser.add_argument("--dtype", choices=get_args(DTypeChoice), default="auto")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--threads", type=int, help="of the CPU; default all")
    parser.add_argument("--tile-frames", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)  # nothing is computed
    try:
        result = _plan(given)
    except AcestageError as error:
        print(json.dumps({"error": {"reason": error.reason, "message": error.message}}))
        sys.exit(1)
    print(json.dumps(result))


def _plan(given: argparse.Namespace) -> dict[str, Any]:
    checkpoint = find_architecture(given.checkpoint, given.checkpoints_dir, given.variant)
    dtype = _dtype(given, stored_dtype(checkpoint))
    cpu_thread_count = None
    if given.device == "cpu":
        cpu_thread_count = given.threads or len(os.sched_getaffinity(0))
    stages: dict[str, StageMemory] = {}
    for stage in STAGES:
        module = importlib.import_module(f"services.{stage}.worker")
        worker: StageWorker = module.without_weights(checkpoint)
        stages[stage] = worker.memory(getattr(torch, dtype), cpu_thread_count)
    wishes = Wishes(
        dtype=dtype,
        frame_rate_hz=checkpoint.model.latent_frame_rate_hz,
        quantization=given.quantization,
        tile_frame_count=given.tile_frames,
    )
    models = [LanguageModelMemory.of(name, config) for name, config in language_model_configs().items()]
    plan = make_plan(
        stages, given.device_bytes, given.duration, given.batch, wishes=wishes, language_models=models
    )
    return {"model": checkpoint.model.name, "device": given.device, **plan.to_json()}


def _dtype(given: argparse.Namespace, stored: str) -> str:
    """What "auto" means on the planned device; a card that is not here is taken for one with bfloat16."""
    if given.device == "cpu":
        return resolve_dtype(given.dtype, "cpu", stored)
    device = resolve_device("auto")
    if given.dtype == "auto" and device == "cpu":
        return "bfloat16"
    return resolve_dtype(given.dtype, device, stored)


if __name__ == "__main__":
    main()
