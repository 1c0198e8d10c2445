"""`acestage plan`: what fits on a device, from the model's architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from acestage.checks import Checks
from acestage.cli.flags import EnvFile, JsonFlag, load_settings
from acestage.cli.terminal import open_console, print_json
from acestage.errors import InternalError, error_classes
from acestage.planning import DEFAULT_TILE_FRAMES, GIB, MAX_BATCH_SIZE, MAX_DURATION_S, MIB
from acestage.settings import Settings

DURATION_S = (10, MAX_DURATION_S)
VRAM_GB = (0.1, 1024)
EXIT_DOES_NOT_FIT = 3
_SIZES = {
    "weights": "weights",
    "activations": "activation",
    "context": "context",
    "reserve": "reserve",
    "total": "total",
}
"""Columns of the table, and what they are called in the plan."""


class PlannedDevice(StrEnum):
    """What a plan is for."""

    CUDA = "cuda"
    CPU = "cpu"


def plan(
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder, or the name of a published model, downloaded or not."),
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option(
            help="Gigabytes (GiB) of the device. Default: MAX_CUDA_VRAM, else those of this machine's card, "
            "else 4."
        ),
    ] = None,
    duration: Annotated[float, typer.Option(help="Seconds of the song, 10 to 600.")] = 180.0,
    batch: Annotated[int, typer.Option(help="Songs at once, 1 to 8.")] = 1,
    quantization: Annotated[
        str | None, typer.Option(help="auto, none or int8: auto takes int8 where the rest does not fit.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[
        PlannedDevice | None, typer.Option(help="A CUDA card, here or elsewhere, or this machine's CPU.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Model of an original-layout folder.")] = None,
    env_file: EnvFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what fits on a device, without it and without weights.

    The exit code is 0 where the song fits, 3 where it does not, and 1 where there is no plan.
    """
    checks = Checks()
    if vram is not None:
        checks.within(vram, "vram", *VRAM_GB)
    checks.within(duration, "duration", *DURATION_S)
    checks.within(batch, "batch", 1, MAX_BATCH_SIZE)
    accepted = "accepted: a folder, or the name of a model"
    checks.require(checkpoint != "", "checkpoint", f"is empty; {accepted}")
    checks.require("," not in (checkpoint or ""), "checkpoint", f"is {checkpoint!r}, a list; {accepted}")
    checks.done()
    settings = load_settings(
        env_file, checkpoint=checkpoint, variant=variant, quantization=quantization, dtype=dtype
    )
    kind = device or (PlannedDevice.CPU if settings.device == "cpu" else PlannedDevice.CUDA)
    size = round(vram * GIB) if vram is not None else settings.max_device_bytes
    found = _ask_planner(settings, kind, size, duration, batch)
    if as_json:
        print_json(found)
    else:
        _print(open_console(), found)
    if not found["fits"]:
        raise typer.Exit(EXIT_DOES_NOT_FIT)


def _ask_planner(
    settings: Settings,
    device: PlannedDevice,
    device_bytes: int | None,
    duration_s: float,
    batch_size: int,
) -> dict[str, Any]:
    """The plan, from a process of its own: only the services know the stages, and they need torch."""
    flags: dict[str, object] = {
        "checkpoint": settings.checkpoints[0],
        "checkpoints-dir": settings.checkpoints_dir,
        "cache-dir": settings.cache_dir,
        "duration": duration_s,
        "batch": batch_size,
        "quantization": settings.quantization,
        "dtype": settings.dtype,
        "device": device,
        "tile-frames": settings.vae_tile_frame_count or DEFAULT_TILE_FRAMES,
    }
    optional = {
        "device-bytes": device_bytes,
        "card": settings.device if settings.device.startswith("cuda") else None,
        "variant": settings.variant,
        "one-at-a-time": settings.offload_to_cpu or None,
    }
    flags |= {key: value for key, value in optional.items() if value is not None}
    flags |= {"threads": settings.threads} if settings.threads else {}
    command = [
        sys.executable,
        "-m",
        "services.planner",
        *(f"--{key}={value}" for key, value in flags.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise InternalError(f"the planner ended with code {done.returncode}: {done.stderr.strip()}") from None
    if "error" in answer:
        raise error_classes()[answer["error"]["reason"]](answer["error"]["message"])
    return answer


def _print(console: Console, found: dict[str, Any]) -> None:
    console.print(
        f"{found['model']} on {found['device_bytes'] / GIB:g} GiB ({found['device']}): "
        f"{_songs(found['batch_size'])} of {found['duration_s']:g} s "
        + ("fits" if found["fits"] else "does not fit")
    )
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("stage", "type", *_SIZES, "tile", "fits"):
        table.add_column(heading, justify="right" if heading in (*_SIZES, "tile") else "left", no_wrap=True)
    for name, stage in found["stages"].items():
        sizes = (f"{stage[f'{key}_bytes'] / MIB:.0f}" for key in _SIZES.values())
        dtype = stage["dtype"] if stage["quantization"] == "none" else stage["quantization"]
        tile = str(stage["tile_frames"] or "")
        table.add_row(name, dtype, *sizes, tile, "yes" if stage["fits"] else "no")
    console.print(table)
    console.print("In MiB; activations at their peak; tiles in latent frames.")
    if found["stages"]["dit"]["mode"] == "single" and found["has_guidance"]:
        console.print("The halves of guidance take turns, because both at once do not fit.")
    if found["one_at_a_time"]:
        console.print("The stages take turns, as ACESTEP_OFFLOAD_TO_CPU says.")
    elif found["exclusive"]:
        console.print("The stages take turns: a device of up to 4 GiB has one at a time.")
    elif found["resident"]:
        console.print("All stages fit side by side, so none has to leave.")
    else:
        console.print("The stages do not fit side by side: one leaves when another needs the room.")
    console.print(f"Longest song: {found['max_duration_s']} s. Largest batch: {found['max_batch_size']}.")
    models = ", ".join(found["language_models"]) or "none"
    console.print(f"Language models that fit by themselves: {models}.")


def _songs(count: int) -> str:
    return "a song" if count == 1 else f"a batch of {count} songs"
