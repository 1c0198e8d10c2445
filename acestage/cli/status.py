"""`acestage status`: services, models, device memory, lease holder, queue, last jobs."""

from __future__ import annotations

import dataclasses

from acestage.cli.flags import JsonFlag, Target, orchestrator_of
from acestage.cli.status_view import StatusView
from acestage.cli.terminal import open_console, print_json
from acestage.client import Client


def status(
    target: Target = None,
    as_json: JsonFlag = False,
) -> None:
    """Show services, models, device memory, lease holder, queue and the last jobs."""
    address, access = orchestrator_of(target)
    with Client(address, access) as client:
        found = client.status()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        open_console().print(StatusView(found, address))
