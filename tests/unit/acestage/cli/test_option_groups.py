"""Commands that share options by dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from acestage.cli.option_groups import with_groups


@dataclass(frozen=True)
class Sampling:
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None
    clamp: Annotated[bool, typer.Option("--clamp")] = False


def test_fields_of_a_group_are_options_of_the_command() -> None:
    app = typer.Typer()

    @app.command()
    @with_groups
    def sing(
        caption: Annotated[str, typer.Argument()],
        sampling: Sampling,
        bpm: Annotated[int, typer.Option()] = 90,
    ) -> None:
        typer.echo(f"{caption} {sampling.steps} {sampling.clamp} {bpm}")

    run = CliRunner().invoke
    assert run(app, ["piano"]).stdout == "piano None False 90\n"
    assert run(app, ["piano", "--steps", "7", "--clamp", "--bpm", "80"]).stdout == "piano 7 True 80\n"
    assert "Denoising steps." in run(app, ["--help"]).stdout
    assert run(app, ["piano", "--steps", "many"]).exit_code == 2
