"""`acestage generate`: one song, from services that run or from services started for it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from acestage.cli.flags import Target
from acestage.cli.job_run import run_generation, submit_generation
from acestage.cli.output_options import (
    Depth,
    DepthFlag,
    FormatFlag,
    JsonFlag,
    OutputFlag,
    OutputOptions,
    PlayFlag,
    StreamFlag,
)
from acestage.cli.terminal import open_console
from acestage.generation import GenerationOptions


class Weights(StrEnum):
    none = "none"
    int8 = "int8"


def generate(
    caption: Annotated[str, typer.Argument(help="What the music is like.")],
    lyrics: Annotated[str, typer.Option(help="Lyrics, or @FILE to read them from.")] = "",
    language: Annotated[str | None, typer.Option(help="Language code of the lyrics.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds, 10 to 600.")] = None,
    bpm: Annotated[int | None, typer.Option(help="Beats a minute, 30 to 300.")] = None,
    key: Annotated[str | None, typer.Option(help='For example "F# minor".')] = None,
    time_signature: Annotated[str | None, typer.Option(help="2, 3, 4 or 6.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same audio.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the timestep schedule.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="On above 1; not for turbo models.")] = None,
    cfg_interval_start: Annotated[float | None, typer.Option(help="Where guidance sets in, 0 to 1.")] = None,
    cfg_interval_end: Annotated[float | None, typer.Option(help="Where guidance ends, 0 to 1.")] = None,
    timesteps: Annotated[
        str | None, typer.Option(help='Falling values, for example "1,0.8,0.5,0.2".')
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="Replaces the prompt's instruction.")] = None,
    batch: Annotated[int | None, typer.Option(help="Takes, with seeds that count up.")] = None,
    quantization: Annotated[
        Weights | None, typer.Option(help="Weights as they are or in INT8; else INT8 where it must be.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="One of the models that are served, such as base; else the first.")
    ] = None,
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Lower values to the limits, and say so, rather than fail.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint for services started by this run.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda[:N], for services of this run.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Data type, for services of this run.")] = None,
    limits: Annotated[str | None, typer.Option(help="planner or tier, for services of this run.")] = None,
    target: Target = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's id and return; for acestage attach.")
    ] = False,
    stream: StreamFlag = None,
    play: PlayFlag = False,
    output: OutputFlag = None,
    audio_format: FormatFlag = None,
    bit_depth: DepthFlag = Depth.pcm_16,
    as_json: JsonFlag = False,
) -> None:
    """Generate music from a caption.

    Uses the services that run at the target. Where none runs and no target was given, services are
    started for this one run.
    """
    console = open_console(stderr=True)
    if detach and (stream is not None or play or output is not None):
        raise typer.BadParameter(
            "writes nothing; give --stream, --play or --output to acestage attach", param_hint="--detach"
        )
    given: dict[str, Any] = {
        "lyrics": _text(lyrics),
        "language": language,
        "duration_s": duration,
        "bpm": bpm,
        "key_scale": key,
        "time_signature": time_signature,
        "seed": seed,
        "step_count": steps,
        "shift": shift,
        "guidance_scale": guidance_scale,
        "cfg_interval_start": cfg_interval_start,
        "cfg_interval_end": cfg_interval_end,
        "timesteps": _timesteps(timesteps),
        "instruction": instruction,
        "batch_size": batch,
        "quantization": quantization.value if quantization else None,
        "model": model,
        "clamp": clamp or None,
    }
    options = cast(GenerationOptions, {name: value for name, value in given.items() if value is not None})
    own = {"checkpoint": checkpoint, "device": device, "dtype": dtype, "limits": limits}
    if detach:
        submit_generation(console, target, own, caption, options, as_json=as_json)
        return
    output_options = OutputOptions.of(
        output=output,
        audio_format=audio_format,
        bit_depth=bit_depth,
        stream=stream,
        play=play,
        as_json=as_json,
        take_count=batch or 1,
    )
    run_generation(console, target, own, caption, options, output_options)


def _text(value: str) -> str:
    """The value itself, or the content of the file that `@FILE` names ("@-" is stdin)."""
    if not value.startswith("@"):
        return value
    if value == "@-":
        return sys.stdin.read()
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {value[1:]}: {error}", param_hint="--lyrics") from None


def _timesteps(value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is not a list of numbers such as 1,0.8,0.5", param_hint="--timesteps"
        ) from None
