"""Names in a file of settings that are none."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values
from pydantic import AliasChoices

from acestage.settings import Settings


def unknown_settings(env_file: Path | None = None) -> list[str]:
    """A line for each name of ours in `env_file`, else in `.env`, that no setting has."""
    choices = [field.validation_alias for field in Settings.model_fields.values()]
    known = [str(name) for alias in choices if isinstance(alias, AliasChoices) for name in alias.choices]
    given = [name.upper() for name in dotenv_values(env_file or ".env", encoding="utf-8")]
    unknown = [name for name in given if name.startswith("ACESTAGE_") and name not in known]
    return [f"{name} is no setting{_nearest(name, known)}" for name in unknown]


def _nearest(name: str, known: Sequence[str]) -> str:
    by_end = {_end_of(one): one for one in reversed(known)}
    return "".join(f"; did you mean {by_end[end]}?" for end in get_close_matches(_end_of(name), by_end, 1))


def _end_of(name: str) -> str:
    """What tells names apart that all begin alike."""
    return name.removeprefix("ACESTAGE_").removeprefix("ACESTEP_")
