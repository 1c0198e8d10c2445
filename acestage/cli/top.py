"""`acestage top`: the status, live."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from acestage.access import Access
from acestage.cli.flags import Target, orchestrator_of
from acestage.cli.status_view import Outage, OutageView, StatusView
from acestage.cli.terminal import open_console
from acestage.client import Client
from acestage.errors import AcestageError
from acestage.status import Status

TIMEOUT_S = 5.0
"""A stage that does not answer costs the orchestrator 2 s."""


def top(
    target: Target = None,
    interval_s: Annotated[
        float,
        typer.Option(
            "--interval", min=0.1, help="Seconds between frames; one takes the services 0.1 s of a CPU."
        ),
    ] = 2.0,
) -> None:
    """Watch devices, leases, stages, memory and jobs. Ctrl-C ends it."""
    address, access = orchestrator_of(target)
    console = open_console()
    if not console.is_terminal:
        raise typer.BadParameter(
            "the output is no terminal; acestage status prints the same once", param_hint="acestage top"
        )
    # However it is ended, the terminal must be left as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pause = threading.Event()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for frame in _frames(address, access):
                live.update(frame, refresh=True)
                pause.wait(interval_s)
    except KeyboardInterrupt:
        return


def _frames(address: str, access: Access) -> Iterator[RenderableType]:
    """A frame for every time it is asked; never ends."""
    outage: Outage | None = None
    last: Status | None = None
    while True:
        try:
            # A client's pause before it connects again grows to minutes, so an outage ends it.
            with Client(address, access) as client:
                while True:
                    last = client.status(TIMEOUT_S)
                    outage = None
                    yield StatusView(last, address)
        except AcestageError as error:
            now = datetime.now(UTC)
            outage = Outage(outage.since if outage else now, f"{error.reason}: {error.message}")
            yield OutageView(outage, now, address, last)
