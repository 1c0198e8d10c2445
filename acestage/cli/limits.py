"""`acestage limits`: what requests may ask for, and what set each limit."""

from __future__ import annotations

from typing import Annotated

import typer

from acestage.cli.flags import JsonFlag, Target, orchestrator_of
from acestage.cli.terminal import open_console, print_json, whole_table
from acestage.client import Client
from acestage.limits import Limits
from acestage.planning import GIB

_BASES = {"planner": "planner", "tier": "tier table"}


def limits(
    model: Annotated[
        str | None, typer.Option(help="One of the models that are served; else the first.")
    ] = None,
    target: Target = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the longest song, the largest batch and the language models that the services allow, and why."""
    address, access = orchestrator_of(target)
    with Client(address, access) as client:
        found = client.limits(model=model or "")
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found, address)


def _print(found: Limits, target: str) -> None:
    console = open_console()
    size = f"{found.device_bytes / GIB:.1f} GiB, {found.tier}" if found.device_bytes else "memory not known"
    console.print(
        f"Limits of {found.model} at {target} from the {_BASES[found.basis]} (device {found.device}: {size})",
        soft_wrap=True,
    )
    table = whole_table("what", "limit", "set by")
    table.add_row("longest song", f"{found.max_duration_s.value:g} s", found.max_duration_s.source)
    table.add_row("takes of a request", f"{found.max_batch_size.value:g}", found.max_batch_size.source)
    table.add_row("language models (none is served yet):", "", "")
    for model in found.language_models:
        table.add_row(f"  {model.name}", "allowed" if model.is_allowed else "no", model.source)
    console.print(table)
