"""What every command does that waits for a song: show progress, stream, save, tell the result."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from typing import Any

import typer
from rich.console import Console

from acestage.async_client import AsyncClient, queued_job_id
from acestage.cli.output import SavedTrack, save, save_preview
from acestage.cli.output_options import OutputOptions
from acestage.cli.progress import ProgressView
from acestage.cli.result import print_result, print_saved
from acestage.cli.streaming import AudioStream, StreamClosed
from acestage.cli.terminal import print_json, print_label
from acestage.errors import AcestageError, FailedPreconditionError
from acestage.generation import Generation, GenerationEvent, PreviewCompleted
from acestage.orchestrator_errors import ended_early

EXIT_NOT_WRITTEN = 1
EXIT_CANCELLED = 130

Events = AsyncGenerator[GenerationEvent, None]
Begin = Callable[[AsyncClient], Events]
OpenClient = AbstractAsyncContextManager[AsyncClient]


def submit_job(
    console: Console, opened: OpenClient, begin: Begin, *, target: str | None, as_json: bool
) -> None:
    """Starts a detached job and prints its id on stdout.

    Args:
        console: for the note that tells how to go on.
        opened: the client to use.
        begin: starts the job.
        target: address of the services as it was given, which the note repeats.
        as_json: print an object.

    Raises:
        AcestageError: it was refused.
    """

    async def submit() -> str:
        async with opened as client:
            return await queued_job_id(begin(client), client.target)

    job_id = asyncio.run(submit())
    if as_json:
        print_json({"job_id": job_id})
    else:
        typer.echo(job_id)
        command = ["acestage", "attach", job_id, *(["--target", target] if target else [])]
        note = f"the job goes on by itself; for its music: {shlex.join(command)}"
        print_label(console, "Note:", note)


def run_job(
    console: Console,
    opened: OpenClient,
    begin: Begin,
    output: OutputOptions,
    *,
    when_cancelled: str = "Cancelled.",
) -> None:
    """Follows the events that `begin` gets from a client to their end, and puts the audio where `output`
    says. Whoever closes the stream ends it quietly, unless a file is to be written as well.

    Raises:
        typer.Exit: it was interrupted, or a file or the stream could not be written.
        AcestageError: the job failed.
    """
    try:
        code = asyncio.run(_run(console, opened, begin, output))
    except asyncio.CancelledError:
        console.print(when_cancelled)
        raise typer.Exit(EXIT_CANCELLED) from None
    if code:
        raise typer.Exit(code)


async def _run(console: Console, opened: OpenClient, begin: Begin, output: OutputOptions) -> int:
    """Returns the exit code."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    sink = output.sink()
    async with nullcontext() if sink is None else AudioStream(sink) as stream:
        async with opened as client:
            with ProgressView(console) as view:
                hearers = [view.hear] if stream is None else [view.hear, stream.hear]
                if output.has_file:
                    hearers.append(partial(_hear_preview, console, output))
                listening = _listen(begin(client), hearers, client.target)
                generation = await _while_heard(listening, None if output.has_file else stream)
        if generation is None:
            return 0
        files = await _save(generation, output) if output.has_file else []
        print_result(console, generation, files, first_audio_s=view.first_audio_s, as_json=output.as_json)
        is_complete = stream is None or await _is_taken(console, stream)
        return 0 if is_complete and not any(file.failure for file in files) else EXIT_NOT_WRITTEN


def _hear_preview(console: Console, output: OutputOptions, event: GenerationEvent) -> None:
    """Writes the preview as soon as it is there; where it cannot be written, the song goes on."""
    if not isinstance(event, PreviewCompleted):
        return
    try:
        files = save_preview(event, output.file, output.file_format, output.bit_depth)
    except FailedPreconditionError as error:
        print_label(console, "Error:", f"the preview is lost: {error.message}", "red")
        return
    for file in files:
        print_saved(console, file)


async def _listen(
    events: Events, hearers: Sequence[Callable[[GenerationEvent], None]], target: str
) -> Generation:
    async with aclosing(events):
        async for event in events:
            for hear in hearers:
                hear(event)
            if isinstance(event, Generation):
                return event
    raise ended_early(target)


async def _while_heard(
    listening: Coroutine[Any, Any, Generation], stream: AudioStream | None
) -> Generation | None:
    """The result of `listening`; None where `stream` was closed before.

    Raises:
        AcestageError: the job failed, or the stream.
    """
    task = asyncio.create_task(listening)
    try:
        ends: list[asyncio.Future[Any]] = [task] if stream is None else [task, stream.ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if stream is not None and not task.done():
            try:
                stream.ended.result()
            except StreamClosed:
                return None
        return await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # whoever is concerned has heard of it


async def _save(generation: Generation, output: OutputOptions) -> list[SavedTrack]:
    return await asyncio.to_thread(save, generation, output.file, output.file_format, output.bit_depth)


async def _is_taken(console: Console, stream: AudioStream) -> bool:
    """Waits until all audio was taken; false, and said, where the stream failed."""
    try:
        await stream.ended
    except StreamClosed:
        return True
    except AcestageError as error:
        print_label(console, error.reason, error.message, "red")
        return False
    return True
