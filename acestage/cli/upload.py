"""`acestage upload`: audio for requests to work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from acestage.audio import Audio
from acestage.cli.flags import JsonFlag, Target, orchestrator_of
from acestage.cli.terminal import open_console, print_json, print_label
from acestage.client import Client
from acestage.errors import FieldViolation, InvalidArgumentError


def upload(
    file: Annotated[Path, typer.Argument(help="WAV, FLAC, Ogg, MP3, AIFF and others.", dir_okay=False)],
    target: Target = None,
    as_json: JsonFlag = False,
) -> None:
    """Upload audio, and print the id by which other commands and requests name it."""
    console = open_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        named_in_errors(str(file), "FILE"),
        Client(*orchestrator_of(target)) as client,
        # Off a terminal its end would be an empty line.
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("upload", total=None)
        audio = client.upload(
            file, on_progress=lambda sent, total: progress.update(task, completed=sent, total=total)
        )
    print_warnings(console, str(file), audio)
    if as_json:
        print_json(audio.to_dict())
    else:
        typer.echo(audio.audio_id)
        console.print(_facts(audio), soft_wrap=True)


@contextmanager
def named_in_errors(source: str, flag: str) -> Iterator[None]:
    """For an upload of `source`, which `flag` gave: what is wrong with it is said with both."""
    try:
        yield
    except InvalidArgumentError as error:
        raise error.retold(
            lambda wrong: FieldViolation(flag, f"{source}: {wrong.field}: {wrong.description}")
        ) from error


def print_warnings(console: Console, source: str, audio: Audio) -> None:
    """Says what is odd about `audio`, which was uploaded from `source`."""
    for warning in audio.warnings:
        print_label(console, "Warning:", f"{source}: {warning}")


def _facts(audio: Audio) -> str:
    return (
        f"{audio.duration_s:.2f} s of 48 kHz stereo, peak {audio.peak:.3f}, rms {audio.rms:.3f}; it came as "
        f"{audio.original_format}, {audio.original_sample_rate_hz} Hz, "
        f"{audio.original_channel_count} channel{'s' if audio.original_channel_count > 1 else ''}"
    )
