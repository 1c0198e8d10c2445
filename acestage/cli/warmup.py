"""`acestage warmup`: compiles kernels ahead of time."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from acestage.cli.flags import EnvFile, load_settings
from acestage.warmup import warmup_command


def warmup(
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder, or the name of a pulled model; or several with commas."),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Model of an original-layout folder.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:N].")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    env_file: EnvFile = None,
) -> None:
    """Compile for this machine what the services compute beside matrix products and convolutions.

    Takes minutes and needs g++, once: the result is kept in ACESTAGE_CACHE_DIR. Without it the same is
    computed by torch, step by step, which takes longer. Ctrl-C keeps what is complete.
    """
    settings = load_settings(env_file, checkpoint=checkpoint, variant=variant, device=device, dtype=dtype)
    command = warmup_command(settings, env_file)
    sys.stdout.flush()
    os.execv(command[0], command)  # it takes the terminal, its Ctrl-C and the exit code from here
