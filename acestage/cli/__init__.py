"""The command line: `acestage up`, `generate`, `status`, `models`."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from acestage.cli import generate, models, status, up
from acestage.errors import AcestageError, InvalidArgumentError

app = typer.Typer(
    name="acestage",
    help="Music generation with ACE-Step 1.5 on small GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("generate")(generate.generate)
app.command("status")(status.status)
app.add_typer(models.app, name="models")


def main() -> None:
    """Entry point: an error of Acestage ends the process with its message, not with a traceback."""
    try:
        app()
    except AcestageError as error:
        console = Console(stderr=True, highlight=False)
        console.print(f"[red]{error.reason}[/]", end=" ")
        if isinstance(error, InvalidArgumentError) and error.violations:
            console.print("these values are not accepted:")
            for violation in error.violations:
                console.print(f"  {violation.field}: {violation.description}", markup=False, soft_wrap=True)
        else:
            console.print(error.message, markup=False, soft_wrap=True)
        sys.exit(1)
