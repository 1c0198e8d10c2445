"""`acestage status`: services, models, device, lease holder, queue."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from acestage.cli.flags import Target, load_settings
from acestage.cli.terminal import open_console, print_json
from acestage.client import Client
from acestage.status import Status

_MIB = 2**20


def status(
    target: Target = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show services, models, device, lease holder and queue."""
    address = target or load_settings().address("orchestrator")
    with Client(address) as client:
        found = client.status()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        _print(found, address)


def _print(found: Status, target: str) -> None:
    console = open_console()
    queue = found.queue
    console.print(f"Acestage {found.version} at {target}, up since {found.started_at:%Y-%m-%d %H:%M:%S} UTC")
    console.print(
        f"Jobs: {queue.running_count} running, {queue.queued_count} of {queue.queue_max_count} queued; "
        f"{queue.succeeded_count} succeeded, {queue.failed_count} failed, {queue.cancelled_count} cancelled"
    )
    stages = Table("stage", "address", "state", "model", "device", "weights", "memory")
    for stage in found.stages:
        if stage.is_serving:
            memory = sum(process.rss_bytes for process in stage.processes) / _MIB
            weights = f"{stage.weights_bytes / _MIB:.0f} MiB {stage.dtype}"
            state = "working" if stage.active_job_count else "idle"
            stages.add_row(
                stage.stage, stage.target, state, stage.model, stage.device, weights, f"{memory:.0f} MiB"
            )
        else:
            stages.add_row(stage.stage, stage.target, f"down: {stage.error}", "", "", "", "")
    console.print(stages)
    if not found.leases and not found.waiters:
        console.print("No lease is held.")
        return
    leases = Table("device", "holder", "bytes", "token", "state", "since")
    for lease in found.leases:
        leases.add_row(
            lease.device,
            lease.holder,
            f"{lease.vram_bytes / _MIB:.0f} MiB",
            str(lease.fencing_token),
            lease.state,
            f"{lease.granted_at:%H:%M:%S} UTC",
        )
    for waiter in found.waiters:
        bytes_wanted = f"{waiter.vram_bytes / _MIB:.0f} MiB"
        leases.add_row(waiter.device, waiter.holder, bytes_wanted, "", f"waiting, {waiter.position}.", "")
    console.print(leases)
