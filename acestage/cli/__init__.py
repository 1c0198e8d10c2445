"""The command line: every command of `acestage`."""

from __future__ import annotations

import os
import sys

import typer

from acestage.cli import (
    adapters,
    attach,
    cancel,
    generate,
    limits,
    models,
    plan,
    status,
    tasks,
    top,
    up,
    upload,
    warmup,
)
from acestage.cli.terminal import open_console, print_label
from acestage.errors import FULL_DISK, AcestageError, InvalidArgumentError

app = typer.Typer(
    name="acestage",
    help="Music generation with ACE-Step 1.5 on small GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("generate")(generate.generate)
for command in (tasks.cover, tasks.repaint, tasks.extract, tasks.lego, tasks.complete, tasks.codes):
    app.command(command.__name__)(command)
app.command("attach")(attach.attach)
app.command("cancel")(cancel.cancel)
app.command("upload")(upload.upload)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("limits")(limits.limits)
app.command("plan")(plan.plan)
app.command("warmup")(warmup.warmup)
app.command("adapters")(adapters.adapters)
app.add_typer(models.app, name="models")


def main(*, safe_path: bool = True) -> None:
    """Entry point: an error of Acestage, or output without room, ends it with a message, not a traceback.

    Args:
        safe_path: the services that it starts import nothing from the working folder.
    """
    if safe_path:
        os.environ["PYTHONSAFEPATH"] = "1"
    if not os.environ.get("COLUMNS", "80").strip("0"):
        del os.environ["COLUMNS"]  # else rich prints nothing in lines of no width
    try:
        app()
    except AcestageError as error:
        console = open_console(stderr=True)
        if isinstance(error, InvalidArgumentError) and error.violations:
            print_label(console, error.reason, "these values are not accepted:", "red")
            for violation in error.violations:
                console.print(f"  {violation.field}: {violation.description}", soft_wrap=True)
        else:
            print_label(console, error.reason, error.message, "red")
        sys.exit(1)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        what = f"{error.filename or 'the output'} cannot be written: {error.strerror}"
        print_label(open_console(stderr=True), "Error:", what, "red")
        sys.exit(1)
