"""`acestage generate`: one song, from services that run or from services started for it."""

from __future__ import annotations

from typing import Annotated

import typer

from acestage.cli.option_groups import with_groups
from acestage.cli.output_options import OutputFlags
from acestage.cli.song import make_song
from acestage.cli.song_options import PromptOptions, SamplingOptions, ServiceOptions, text_or_file


@with_groups
def generate(
    caption: Annotated[str, typer.Argument(help="What the music is like.")],
    prompt: PromptOptions,
    sampling: SamplingOptions,
    services: ServiceOptions,
    output: OutputFlags,
    duration: Annotated[float | None, typer.Option(help="Seconds, 10 to 600.")] = None,
    codes: Annotated[
        str, typer.Option(help="Audio codes to follow, or @FILE with them; they set the length.")
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's id and return; for acestage attach.")
    ] = False,
) -> None:
    """Generate music from a caption.

    Uses the services that run at the target. Where none runs and no target was given, services are
    started for this one run.
    """
    task = {"duration_s": duration, "audio_codes": text_or_file(codes, "--codes") or None}
    make_song(caption, task, prompt, sampling, services, output, detach=detach)
