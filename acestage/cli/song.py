"""What the commands do that make a song: options to a request, files to uploads, the job to its output."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console

from acestage.async_client import AsyncClient
from acestage.audio import AUDIO_ID
from acestage.cli.job_run import Events, run_job, submit_job
from acestage.cli.output_options import OutputFlags
from acestage.cli.services import open_client
from acestage.cli.song_options import PromptOptions, SamplingOptions, ServiceOptions
from acestage.cli.terminal import open_console
from acestage.cli.upload import named_in_errors, print_warnings
from acestage.generation import GenerationEvent
from acestage.generation_options import GenerationOptions
from acestage.generation_request import request_to_pb

_ID_OPTIONS = {"SOURCE": "source_id", "--reference": "reference_id"}
"""What a request calls the audio that these give."""


def make_song(
    caption: str,
    task: Mapping[str, Any],
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    *,
    source: str | None = None,
    detach: bool = False,
) -> None:
    """Makes a song and puts it where `output` says.

    Args:
        caption: what it is like.
        task: fields of the request that are the command's own; None leaves one out.
        prompt, sampling, services, output: the command's options.
        source: the audio that the task works on: a file, or the id of an uploaded one.
        detach: only start the job, and print its id.

    Raises:
        typer.BadParameter: flags that do not go together, or a file that cannot be read or written.
        typer.Exit: it was cancelled, or something could not be written.
        AcestageError: it failed.
    """
    console = open_console(stderr=True)
    if detach and output.is_given:
        raise typer.BadParameter(
            "writes nothing; give --stream, --play or --output to acestage attach", param_hint="--detach"
        )
    destination = None if detach else output.options(sampling.take_count)
    if destination is not None and sampling.preview and not destination.has_file:
        raise typer.BadParameter(
            "is written to a file; give --output beside --stream or --play", param_hint="--preview"
        )
    given = {**prompt.request(), **sampling.request(), **task}
    options = cast(GenerationOptions, {name: value for name, value in given.items() if value is not None})
    request_to_pb(caption, options)  # what no message can hold is refused before anything is started
    uploads = {"SOURCE": source, "--reference": prompt.reference}
    for flag, audio in uploads.items():
        if audio is not None:
            check_audio(audio, flag)

    def begin(client: AsyncClient) -> Events:
        return _events(console, client, caption, options, uploads)

    opened = open_client(
        console, services.target, services.own(), env_file=services.env_file, may_start=not detach
    )
    if destination is None:
        options["detached"] = True
        submit_job(console, opened, begin, target=services.target, as_json=output.as_json)
    else:
        run_job(console, opened, begin, destination)


def check_audio(source: str, flag: str) -> None:
    """Raises `typer.BadParameter` where `source`, which `flag` gave, is no id and no readable file."""
    if AUDIO_ID.fullmatch(source):
        return
    if os.path.isdir(source):
        raise typer.BadParameter(f"{source} is a folder, not a file", param_hint=flag)
    if not os.access(source, os.R_OK):
        problem = "cannot be read" if os.path.exists(source) else "does not exist"
        raise typer.BadParameter(
            f"{source} {problem}; accepted: an audio file, or the id of an uploaded one", param_hint=flag
        )


async def audio_id(console: Console, client: AsyncClient, source: str, flag: str) -> str:
    """The id of `source`, which `flag` gave: itself where it looks like one, else that of the file, which is
    uploaded. What is odd about the file is said on `console`.

    Raises:
        AcestageError: it could not be uploaded.
    """
    if AUDIO_ID.fullmatch(source):
        return source
    with named_in_errors(source, flag):
        audio = await client.upload(Path(source))
    print_warnings(console, source, audio)
    return audio.audio_id


async def _events(
    console: Console,
    client: AsyncClient,
    caption: str,
    options: GenerationOptions,
    uploads: Mapping[str, str | None],
) -> AsyncGenerator[GenerationEvent, None]:
    ids = {
        _ID_OPTIONS[flag]: await audio_id(console, client, audio, flag)
        for flag, audio in uploads.items()
        if audio is not None
    }
    complete = cast(GenerationOptions, {**options, **ids})
    async with aclosing(client.stream(caption, **complete)) as events:
        async for event in events:
            yield event
