"""`acestage models`: pull, list and verify checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from acestage.access import Access
from acestage.cli.flags import Target, load_settings
from acestage.cli.terminal import open_console, whole_table
from acestage.client import Client
from acestage.errors import AcestageError

SERVED_TIMEOUT_S = 5.0
"""A stage that does not answer costs the orchestrator 2 s."""

CheckpointsDir = Annotated[Path | None, typer.Option(help="Where checkpoints are kept.")]

app = typer.Typer(help="Pull, list and verify checkpoints.", no_args_is_help=True)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="For example turbo, base, sft or xl-turbo.")],
    checkpoints_dir: CheckpointsDir = None,
) -> None:
    """Download a published model; run it again to resume."""
    from acestage.checkpoints import pull as pull_checkpoint

    settings = load_settings(checkpoints_dir=checkpoints_dir)
    path = pull_checkpoint(name, settings.checkpoints_dir)
    open_console().print(
        f"{name} is in {path}. Start it with: acestage up --checkpoint {path}", soft_wrap=True
    )


@app.command("list")
def list_models(
    checkpoints_dir: CheckpointsDir = None,
    target: Target = None,
) -> None:
    """List the models that are here, whether services serve them now, and those that can be pulled."""
    from acestage.checkpoints import REPOSITORIES, list_local

    settings = load_settings(checkpoints_dir=checkpoints_dir)
    address = target or settings.address("orchestrator")
    try:
        served = _served(address, Access.of(settings))
    except AcestageError:
        if target is not None:
            raise
        served = []  # usual: whoever looks what there is need not run services
    table = whole_table("model", "layout", "size", "path", "served")
    for model in list_local(settings.checkpoints_dir):
        layout = model.layout or f"not usable: {model.problem}"
        is_served = "yes" if model.path.name in served else ""
        table.add_row(model.name, layout, decimal(model.byte_count), str(model.path), is_served)
    console = open_console()
    console.print(table)
    if served:
        console.print(f"Served at {address}: {', '.join(served)}", soft_wrap=True)
    console.print("Can be pulled: " + ", ".join(REPOSITORIES), soft_wrap=True)


def _served(address: str, access: Access) -> list[str]:
    with Client(address, access) as client:
        return client.status(SERVED_TIMEOUT_S).served_models


@app.command()
def verify(
    path: Annotated[str, typer.Argument(help="Checkpoint folder, or the name of a pulled model.")],
    variant: Annotated[str | None, typer.Option(help="Model of an original-layout folder.")] = None,
    checkpoints_dir: CheckpointsDir = None,
) -> None:
    """Check that a checkpoint has every file, and every tensor in its shape."""
    from acestage.checkpoints import open_checkpoint

    settings = load_settings(variant=variant, checkpoints_dir=checkpoints_dir)
    checkpoint = open_checkpoint(path, checkpoints_dir=settings.checkpoints_dir, variant=settings.variant)
    # Takes seconds, so whoever named no checkpoint does not wait for it.
    from acestage.checkpoints.loading import verify as verify_checkpoint

    table = whole_table("component", "files", "tensors", "size", "types")
    for part in verify_checkpoint(checkpoint):
        size = decimal(part.byte_count)
        table.add_row(
            part.component, str(part.file_count), str(part.tensor_count), size, ", ".join(part.dtypes)
        )
    console = open_console()
    console.print(table)
    console.print(f"{checkpoint.name} ({checkpoint.layout} layout) is complete.", soft_wrap=True)
