"""Settings and addresses from flags, with readable errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from acestage import settings
from acestage.access import Access
from acestage.cli.terminal import open_console, print_label
from acestage.setting_errors import setting_errors
from acestage.setting_types import check_address, expand_user
from acestage.settings import Settings
from acestage.unknown_settings import unknown_settings

P = TypeVar("P", str, Path)


def load_settings(env_file: Path | None = None, **flags: Any) -> Settings:
    """The settings, where a flag that was given (is not None) wins; `env_file` stands in for `.env`.

    Says on stderr which names in that file are no settings.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        loaded = settings.load_settings(env_file, **given)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(setting_errors(error))) from None
    for line in unknown_settings(env_file):
        print_label(open_console(stderr=True), "Warning:", f"{env_file or '.env'}: {line}")
    return loaded


def orchestrator_of(target: str | None) -> tuple[str, Access]:
    """Where the orchestrator answers, `target` or what the settings say, and what lets us in."""
    settings = load_settings()
    return target or settings.address("orchestrator"), Access.of(settings)


def at_home(path: P | None) -> P | None:
    """`path` with the home folder in the place of a ~ at its beginning, which shells leave after a =.

    Raises:
        typer.BadParameter: there is no such user.
    """
    try:
        return None if path is None else type(path)(expand_user(Path(path)))
    except ValueError as error:
        raise typer.BadParameter(f"{path} {error}") from None


def _check_target(target: str | None) -> str | None:
    try:
        return None if target is None else check_address(target)
    except ValueError as error:
        raise typer.BadParameter(f"{target!r} {error}") from None


EnvFile = Annotated[Path | None, typer.Option(help="Read in the place of .env.", exists=True, dir_okay=False)]
Target = Annotated[str | None, typer.Option(help="The orchestrator, host:port.", callback=_check_target)]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
