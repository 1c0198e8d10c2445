"""`acestage generate`: one song, from services that run or from services started for it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from acestage.audio_file import AudioFormat, BitDepth, check_format
from acestage.cli.flags import load_settings
from acestage.cli.progress import ProgressView, print_summary
from acestage.client import AsyncClient
from acestage.errors import AcestageError, FailedPreconditionError
from acestage.generation import Generation, GenerationOptions
from acestage.local_stack import LocalStack, free_ports
from acestage.settings import Settings

EXIT_CANCELLED = 130


class Format(StrEnum):
    wav = "wav"
    flac = "flac"


class Depth(StrEnum):
    pcm_16 = "16"
    pcm_24 = "24"
    float_32 = "32f"


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
    checkpoint: Annotated[str | None, typer.Option(help="Model for services started by this run.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda[:N], for services of this run.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Data type, for services of this run.")] = None,
    target: Annotated[str | None, typer.Option(help="The orchestrator, host:port.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    audio_format: Annotated[Format | None, typer.Option("--format", help="wav, or flac.")] = None,
    bit_depth: Annotated[Depth, typer.Option(help="16, 24, or 32f (wav only).")] = Depth.pcm_16,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Generate music from a caption.

    Uses the services that run at the target. Where none runs and no target was given, services are
    started for this one run.
    """
    console = Console(stderr=True, highlight=False)
    file_format = _format(audio_format, output)
    check_format(file_format, bit_depth.value)
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
    }
    options = cast(GenerationOptions, {name: value for name, value in given.items() if value is not None})
    own = {"checkpoint": checkpoint, "device": device, "dtype": dtype}
    try:
        generation = asyncio.run(_run(console, target, own, caption, options))
    except asyncio.CancelledError:
        console.print("Cancelled.")
        raise typer.Exit(EXIT_CANCELLED) from None
    paths = _save(generation, output, file_format, bit_depth.value)
    for track, path in zip(generation.tracks, paths, strict=True):
        console.print(f"Wrote {path}: {track.duration_s:.2f} s, seed {track.seed}", soft_wrap=True)
        for warning in track.warnings:
            console.print(f"[yellow]Warning:[/] {path}: {warning}", soft_wrap=True)
    if generation.settings.model.is_untrained:
        console.print(
            f"[yellow]Note:[/] {generation.settings.model.name} is untrained: this is noise that proves "
            "the path, not music. For music: acestage models pull turbo",
            soft_wrap=True,
        )
    if as_json:
        typer.echo(json.dumps(_to_json(generation, paths)))
    else:
        print_summary(console, generation)


async def _run(
    console: Console, target: str | None, own: dict[str, str | None], caption: str, options: GenerationOptions
) -> Generation:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with AsyncExitStack() as stack:
        settings = load_settings(**own)
        address = target or (settings.orchestrator if _is_listening(settings.orchestrator) else None)
        chosen = [f"--{name}" for name, value in own.items() if value is not None]
        if address is not None and chosen:
            raise FailedPreconditionError(
                f"{', '.join(chosen)}: services already run at {address} with settings of their own; "
                "stop them, or leave the flag away"
            )
        if address is None:
            address = await _start_services(console, settings, stack)
        client = await stack.enter_async_context(AsyncClient(address))
        with ProgressView(console) as view:
            return await client.generate(caption, on_event=view.show, **options)


async def _start_services(console: Console, settings: Settings, stack: AsyncExitStack) -> str:
    """Starts the services for this run; returns the orchestrator's address."""
    console.print(
        f"No services run at {settings.orchestrator}: starting them for this run with {settings.checkpoint} …"
    )
    log_file = stack.enter_context(tempfile.TemporaryFile(prefix="acestage-", suffix=".log"))  # noqa: SIM115
    try:
        services = await stack.enter_async_context(LocalStack(settings, free_ports(), log_file=log_file))
    except AcestageError:
        log_file.seek(0)
        console.print(log_file.read().decode(errors="replace"), markup=False, soft_wrap=True)
        raise
    return services.target


def _is_listening(target: str) -> bool:
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


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


def _format(audio_format: Format | None, output: Path | None) -> AudioFormat:
    if audio_format is not None:
        return audio_format.value
    return "flac" if output is not None and output.suffix.lower() == ".flac" else "wav"


def _save(
    generation: Generation, output: Path | None, audio_format: AudioFormat, bit_depth: BitDepth
) -> list[Path]:
    """One file a track; several tracks get their number before the suffix."""
    seed = generation.settings.seed
    base = output if output is not None else Path(f"acestage-{seed}.{audio_format}")
    paths = []
    for track in generation.tracks:
        is_one = len(generation.tracks) == 1
        path = base if is_one else base.with_name(f"{base.stem}-{track.item_index + 1}{base.suffix}")
        paths.append(track.save(path, audio_format=audio_format, bit_depth=bit_depth))
    return paths


def _to_json(generation: Generation, paths: list[Path]) -> dict[str, Any]:
    tracks = [
        {
            "path": str(path),
            "seed": track.seed,
            "duration_s": track.duration_s,
            "sample_rate_hz": track.sample_rate_hz,
            "gain": track.gain,
            "peak": track.peak,
            "rms": track.rms,
            "samples_sha256": track.samples_sha256,
            "warnings": list(track.warnings),
        }
        for track, path in zip(generation.tracks, paths, strict=True)
    ]
    stages = {
        stage.stage: {
            "load_s": stage.load_s,
            "compute_s": stage.compute_s,
            "lease_granted_at": stage.granted_at.isoformat(),
            "lease_released_at": stage.released_at.isoformat(),
            "fencing_token": stage.fencing_token,
            "peak_device_bytes": stage.peak_device_bytes,
        }
        for stage in generation.stages
    }
    peak_rss = {process.name: process.peak_rss_bytes for process in generation.processes}
    return {
        "job_id": generation.job_id,
        "settings": generation.settings.to_dict(),
        "tracks": tracks,
        "total_s": generation.total_s,
        "run_s": generation.run_s,
        "stages": stages,
        "peak_rss_bytes": peak_rss,
    }
