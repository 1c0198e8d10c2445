"""The commands that work on audio: `acestage cover`, `repaint`, `extract`, `lego`, `complete`, `codes`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from acestage.cli.flags import JsonFlag, Target
from acestage.cli.option_groups import with_groups
from acestage.cli.output_options import OutputFlags
from acestage.cli.services import open_client
from acestage.cli.song import audio_id, check_audio, make_song
from acestage.cli.song_options import PromptOptions, SamplingOptions, ServiceOptions
from acestage.cli.terminal import open_console, print_json

Source = Annotated[str, typer.Argument(help="The audio to work on: a file, or the id of an uploaded one.")]
Caption = Annotated[str, typer.Argument(help="What the music is like.")]
Start = Annotated[float | None, typer.Option(help="Where the new part begins, in seconds of the source.")]
End = Annotated[float | None, typer.Option(help="Where it ends.")]


@with_groups
def cover(
    source: Source,
    caption: Caption,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    strength: Annotated[
        float | None, typer.Option(help="How far the source is followed, 0 to 1; else 1.")
    ] = None,
    noise_strength: Annotated[
        float | None, typer.Option(help="How much of the source the work starts from, 0 to 1; else 0.")
    ] = None,
    no_codes: Annotated[
        bool, typer.Option("--no-codes", help="Follow the source closely, not through its audio codes.")
    ] = False,
) -> None:
    """Make another version of a song, as long as it is."""
    task = {
        "task": "cover-nofsq" if no_codes else "cover",
        "audio_cover_strength": strength,
        "cover_noise_strength": noise_strength,
    }
    make_song(caption, task, prompt, sampling, services, output, source=source)


@with_groups
def repaint(
    source: Source,
    caption: Caption,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    start: Start = None,
    end: End = None,
) -> None:
    """Make a part of a song anew; the rest stays as it is, sample for sample.

    A start below 0 or an end beyond the source makes the song longer.
    """
    task = {"task": "repaint", "repaint_start_s": start, "repaint_end_s": end}
    make_song(caption, task, prompt, sampling, services, output, source=source)


@with_groups
def extract(
    source: Source,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    caption: Caption = "music",
    track: Annotated[str | None, typer.Option(help='Which track, for example "vocals".')] = None,
) -> None:
    """Take a single track out of a song; needs a base model."""
    task = {"task": "extract", "track_name": track}
    make_song(caption, task, prompt, sampling, services, output, source=source)


@with_groups
def lego(
    source: Source,
    caption: Caption,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    track: Annotated[str | None, typer.Option(help='Which track, for example "drums".')] = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Make a single track that goes with a song; needs a base model."""
    task = {"task": "lego", "track_name": track, "repaint_start_s": start, "repaint_end_s": end}
    make_song(caption, task, prompt, sampling, services, output, source=source)


@with_groups
def complete(
    source: Source,
    caption: Caption,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    tracks: Annotated[str, typer.Option(help='Tracks to add, for example "drums,bass".')] = "",
) -> None:
    """Complete a single track, or a few, to a song; needs a base model."""
    classes = [track.strip() for track in tracks.split(",") if track.strip()]
    task = {"task": "complete", "track_classes": classes or None}
    make_song(caption, task, prompt, sampling, services, output, source=source)


def codes(
    source: Source,
    model: Annotated[str, typer.Option(help="Whose audio codes; else the first model's.")] = "",
    target: Target = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the audio codes of a song, for generate --codes."""
    console = open_console(stderr=True)
    check_audio(source, "SOURCE")

    async def ask() -> str:
        async with open_client(console, target, {}) as client:
            source_id = await audio_id(console, client, source, "SOURCE")
            queue = (await client.status()).queue
            if count := queue.running_count + queue.queued_count:
                console.print(f"Waits for its turn: {count} came before.")
            return await client.audio_codes(source_id, model=model)

    found = asyncio.run(ask())
    if as_json:
        print_json({"audio_codes": found})
    else:
        typer.echo(found)
