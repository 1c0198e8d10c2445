"""What the commands print: text as it is, and JSON that every parser reads."""

from __future__ import annotations

import json
import math
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


def open_console(*, stderr: bool = False) -> Console:
    """A console that takes no part of a path or an error for markup or an emoji's name."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def whole_table(*headers: str, title: str | None = None) -> Table:
    """A table that breaks what is too long for it, and cuts nothing."""
    return Table(*(Column(header, overflow="fold") for header in headers), title=title)


def print_label(console: Console, label: str, text: str, style: str = "yellow") -> None:
    """Prints `text` behind a coloured label."""
    console.print(Text.assemble((label, style), " ", text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints `value` as one JSON object on stdout; numbers that JSON does not have become null."""
    typer.echo(json.dumps(_finite(value), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value
