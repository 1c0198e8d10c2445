"""Settings from flags, with readable errors."""

from __future__ import annotations

from typing import Any

import typer
from pydantic import ValidationError

from acestage.settings import Settings


def load_settings(**flags: Any) -> Settings:
    """The settings, where a flag that was given (is not None) wins."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = [f"{item['loc'][0]}: {item['msg']} (given: {item['input']!r})" for item in error.errors()]
        raise typer.BadParameter("; ".join(lines)) from None
