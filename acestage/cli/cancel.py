"""`acestage cancel`: the end of a job."""

from __future__ import annotations

from typing import Annotated

import typer

from acestage.cli.flags import Target, orchestrator_of
from acestage.client import Client


def cancel(
    job_id: Annotated[str, typer.Argument(help="As generate --detach printed it.")],
    target: Target = None,
) -> None:
    """Stop a job within one step or tile, and print how it ended.

    A job that has ended before stays as it is.
    """
    with Client(*orchestrator_of(target)) as client:
        typer.echo(client.cancel(job_id))
