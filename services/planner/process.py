"""The planner process itself: from its arguments to a plan, or an error, as one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import COMPONENTS_OF_STAGES
from acestage.checkpoints.likeness import architecture_of
from acestage.checkpoints.published import language_model_configs
from acestage.errors import AcestageError
from acestage.planning import GIB, LanguageModelMemory, StageMemory, Wishes, make_plan
from acestage.setting_types import DTypeChoice, QuantizationChoice
from services.planner.architecture import find_architecture, transformer_dtype
from services.runtime.devices.device_memory import read_device_memory
from services.runtime.devices.devices import resolve_device, resolve_dtype
from services.runtime.memory.measurements import Measurements
from services.runtime.processes.usable_cpus import usable_core_count

DEFAULT_DEVICE_BYTES = 4 * GIB
"""Where there is no card: the small one that Acestage is made for."""


def main() -> None:
    """Plans what the arguments say. Their ranges are the caller's business."""
    parser = argparse.ArgumentParser(prog="python -m services.planner", description="Prints a plan.")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--checkpoints-dir", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--variant")
    parser.add_argument("--device-bytes", type=int, help="default: those of the card or the CPU, else 4 GiB")
    parser.add_argument("--card", default="auto", help="cuda:N, where the card is here")
    parser.add_argument("--one-at-a-time", help="whatever the size: one stage has the device at a time")
    parser.add_argument("--duration", type=float, required=True, help="seconds")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--quantization", choices=get_args(QuantizationChoice), default="auto")
    parser.add_argument("--dtype", choices=get_args(DTypeChoice), default="auto")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--threads", type=int, help="of the CPU; default as many as workers have here")
    parser.add_argument("--tile-frames", type=int, required=True)
    given = parser.parse_args()
    try:
        result = _plan(given)
    except AcestageError as error:
        print(json.dumps({"error": {"reason": error.reason, "message": error.message}}))
        sys.exit(1)
    print(json.dumps(result))


def _plan(given: argparse.Namespace) -> dict[str, Any]:
    checkpoint = find_architecture(given.checkpoint, given.checkpoints_dir, given.variant)
    device = "cpu" if given.device == "cpu" else _present_card(given.card)
    dtypes = {
        stage: _dtype(given, device, transformer_dtype(checkpoint), convolves=stage == "vae")
        for stage in COMPONENTS_OF_STAGES
    }
    device_bytes = given.device_bytes or _present_bytes(device)
    cpu_thread_count = None
    if given.device == "cpu":
        cpu_thread_count = given.threads or usable_core_count()
    stages = _stage_memories(checkpoint, dtypes, cpu_thread_count, Measurements(given.cache_dir))
    wishes = Wishes(
        dtype=dtypes["dit"],
        vae_dtype=dtypes["vae"],
        frame_rate_hz=checkpoint.model.latent_frame_rate_hz,
        quantization=given.quantization,
        tile_frame_count=given.tile_frames,
        one_at_a_time=given.one_at_a_time is not None,
    )
    models = [LanguageModelMemory.of(name, config) for name, config in language_model_configs().items()]
    plan = make_plan(stages, device_bytes, given.duration, given.batch, wishes=wishes, language_models=models)
    facts = {
        "model": checkpoint.model.name,
        "device": given.device,
        "has_guidance": not checkpoint.model.is_turbo,
        "one_at_a_time": wishes.one_at_a_time,
    }
    return facts | plan.to_json()


def _stage_memories(
    checkpoint: Checkpoint, dtypes: Mapping[str, str], cpu_thread_count: int | None, kept: Measurements
) -> Mapping[str, StageMemory]:
    digests = {
        stage: kept.digest(stage, architecture_of(checkpoint, components), dtypes[stage], cpu_thread_count)
        for stage, components in COMPONENTS_OF_STAGES.items()
    }
    found = {stage: kept.find(digest) for stage, digest in digests.items()}
    memories = {stage: memory for stage, memory in found.items() if memory is not None}
    missing = {stage: digest for stage, digest in digests.items() if stage not in memories}
    if missing:
        # Not before it is needed: torch and the models take seconds to import.
        from services.planner.measuring import measure

        memories |= measure(missing, checkpoint, dtypes, cpu_thread_count, kept)
    return {stage: memories[stage] for stage in digests}


def _present_card(choice: str) -> str | None:
    """The card of this machine that "auto" or "cuda:N" means; None where there is none."""
    device = resolve_device(choice)
    return None if device == "cpu" else device


def _present_bytes(device: str | None) -> int:
    if device is None:
        return DEFAULT_DEVICE_BYTES
    return read_device_memory(device, None, Path()).total_bytes


def _dtype(given: argparse.Namespace, device: str | None, stored: str, *, convolves: bool) -> str:
    """What "auto" means on the planned device; a card that is not here is taken for one with bfloat16."""
    if device is None:
        return "bfloat16" if given.dtype == "auto" else str(given.dtype)
    return resolve_dtype(given.dtype, device, stored, convolves=convolves)
