"""`acestage attach`: the song of a job that runs already, or has ended not long ago."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from acestage.async_client import AsyncClient
from acestage.cli.flags import Target, orchestrator_of
from acestage.cli.job_run import run_job
from acestage.cli.option_groups import with_groups
from acestage.cli.output_options import OutputFlags
from acestage.cli.terminal import open_console


@with_groups
def attach(
    job_id: Annotated[str, typer.Argument(help="As generate --detach printed it.")],
    output: OutputFlags,
    target: Target = None,
) -> None:
    """Follow a job from its beginning, and write its song.

    Works while the job runs and for a while after its end. Ctrl-C leaves it; the job goes on.
    """
    console = open_console(stderr=True)
    run_job(
        console,
        _client(target),
        lambda client: client.attach(job_id),
        output.options(),
        when_cancelled=f"Left. Job {job_id} goes on.",
    )


@asynccontextmanager
async def _client(target: str | None) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(*orchestrator_of(target)) as client:
        yield client
