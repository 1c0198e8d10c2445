"""`acestage generate`: one song, from services that run or from services started for it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.console import Console

from acestage.audio_file import AudioFormat, check_format
from acestage.cli.flags import Target, load_settings
from acestage.cli.output import SavedTrack, check_output, save
from acestage.cli.progress import ProgressView, print_summary
from acestage.cli.terminal import open_console, print_json, print_label
from acestage.client import AsyncClient
from acestage.errors import CancelledError, FailedPreconditionError, InvalidArgumentError
from acestage.generation import Generation, GenerationOptions
from acestage.local_stack import LocalStack, free_ports
from acestage.settings import Settings

EXIT_NOT_WRITTEN = 1
EXIT_CANCELLED = 130

_LOG_LINE_COUNT = 40


class Format(StrEnum):
    wav = "wav"
    flac = "flac"


class Weights(StrEnum):
    none = "none"
    int8 = "int8"


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
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    audio_format: Annotated[Format | None, typer.Option("--format", help="wav, or flac.")] = None,
    bit_depth: Annotated[Depth, typer.Option(help="16, 24, or 32f (wav only).")] = Depth.pcm_16,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Generate music from a caption.

    Uses the services that run at the target. Where none runs and no target was given, services are
    started for this one run.
    """
    console = open_console(stderr=True)
    file_format = _format(audio_format, output)
    check_format(file_format, bit_depth.value)
    check_output(output)
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
    try:
        generation = asyncio.run(_run(console, target, own, caption, options))
    except asyncio.CancelledError:
        console.print("Cancelled.")
        raise typer.Exit(EXIT_CANCELLED) from None
    files = save(generation, output, file_format, bit_depth.value)
    for file in files:
        _print_file(console, file)
    for clamped in generation.clamped:
        limit = clamped.limit
        note = f"{clamped.field}: {clamped.requested:.10g} was lowered to {limit.value:g} ({limit.source})"
        print_label(console, "Note:", note)
    if generation.settings.model.is_untrained:
        name = generation.settings.model.name
        note = f"{name} is untrained: this is noise that proves the path, not music. For music: "
        print_label(console, "Note:", note + "acestage models pull turbo")
    if as_json:
        print_json(_to_json(generation, files))
    else:
        print_summary(console, generation)
    if any(file.failure for file in files):
        raise typer.Exit(EXIT_NOT_WRITTEN)


def _print_file(console: Console, file: SavedTrack) -> None:
    if file.failure is not None:
        print_label(console, "Error:", file.failure, "red")
    track = file.track
    console.print(f"Wrote {file.path}: {track.duration_s:.2f} s, seed {track.seed}", soft_wrap=True)
    for warning in track.warnings:
        print_label(console, "Warning:", f"{file.path}: {warning}")


async def _run(
    console: Console, target: str | None, own: dict[str, Any], caption: str, options: GenerationOptions
) -> Generation:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with AsyncExitStack() as stack:
        settings = load_settings(**own)
        default = settings.address("orchestrator")
        address = target or (default if _is_listening(default) else None)
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
        f"No services run at {settings.address('orchestrator')}: "
        f"starting them for this run with {settings.checkpoint} …",
        soft_wrap=True,
    )
    log_file = stack.enter_context(log_shown_on_error(console))
    services = await stack.enter_async_context(LocalStack(settings, free_ports(), log_file=log_file))
    return services.target


@contextmanager
def log_shown_on_error(console: Console) -> Iterator[IO[bytes]]:
    """A file for the services' log, of which an error shows the end; to be left when they have ended."""
    with tempfile.TemporaryFile(prefix="acestage-", suffix=".log") as log_file:
        try:
            yield log_file
        except (InvalidArgumentError, CancelledError):
            raise
        except Exception:
            log_file.seek(0)
            lines = log_file.read().decode(errors="replace").splitlines()[-_LOG_LINE_COUNT:]
            console.print("The services logged last:", *lines, sep="\n", soft_wrap=True)
            raise


def _is_listening(target: str) -> bool:
    try:
        if target.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(target.removeprefix("unix:"))
            return True
        host, _, port = target.removeprefix("dns:///").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except (OSError, UnicodeError):  # the latter where the host cannot be a name
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


def _to_json(generation: Generation, files: list[SavedTrack]) -> dict[str, Any]:
    tracks = [
        {
            "path": str(file.path),
            "seed": file.track.seed,
            "duration_s": file.track.duration_s,
            "sample_rate_hz": file.track.sample_rate_hz,
            "gain": file.track.gain,
            "peak": file.track.peak,
            "rms": file.track.rms,
            "samples_sha256": file.track.samples_sha256,
            "warnings": list(file.track.warnings),
        }
        for file in files
    ]
    stages = {
        stage.stage: {
            "load_s": stage.load_s,
            "compute_s": stage.compute_s,
            "started_at": stage.started_at.isoformat(),
            "ended_at": stage.ended_at.isoformat(),
            "fencing_token": stage.fencing_token,
            "planned_bytes": stage.planned_bytes,
            "peak_device_bytes": stage.peak_device_bytes,
            "adaptations": [asdict(adaptation) for adaptation in stage.adaptations],
        }
        for stage in generation.stages
    }
    peak_rss = {process.name: process.peak_rss_bytes for process in generation.processes}
    return {
        "job_id": generation.job_id,
        "settings": generation.settings.to_dict(),
        "clamped": [asdict(clamped) for clamped in generation.clamped],
        "tracks": tracks,
        "total_s": generation.total_s,
        "run_s": generation.run_s,
        "stages": stages,
        "peak_rss_bytes": peak_rss,
    }
