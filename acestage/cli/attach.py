"""`acestage attach`: the song of a job that runs already, or has ended not long ago."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from acestage.cli.flags import Target, load_settings
from acestage.cli.job_run import run_job
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
from acestage.client import AsyncClient


def attach(
    job_id: Annotated[str, typer.Argument(help="As generate --detach printed it.")],
    target: Target = None,
    stream: StreamFlag = None,
    play: PlayFlag = False,
    output: OutputFlag = None,
    audio_format: FormatFlag = None,
    bit_depth: DepthFlag = Depth.pcm_16,
    as_json: JsonFlag = False,
) -> None:
    """Follow a job from its beginning, and write its song.

    Works while the job runs and for a while after its end. Ctrl-C leaves it; the job goes on.
    """
    console = open_console(stderr=True)
    options = OutputOptions.of(
        output=output,
        audio_format=audio_format,
        bit_depth=bit_depth,
        stream=stream,
        play=play,
        as_json=as_json,
    )
    run_job(
        console,
        _client(target),
        lambda client: client.attach(job_id),
        options,
        when_cancelled=f"Left. Job {job_id} goes on.",
    )


@asynccontextmanager
async def _client(target: str | None) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(target or load_settings().address("orchestrator")) as client:
        yield client
