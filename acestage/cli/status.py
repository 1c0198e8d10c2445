"""`acestage status`: services, models, device memory, lease holder, queue, last jobs."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from acestage.cli.flags import Target, orchestrator_of
from acestage.cli.status_view import StatusView
from acestage.cli.terminal import open_console, print_json
from acestage.client import Client


def status(
    target: Target = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show services, models, device memory, lease holder, queue and the last jobs."""
    address, access = orchestrator_of(target)
    with Client(address, access) as client:
        found = client.status()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        open_console().print(StatusView(found, address))
