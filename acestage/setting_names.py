"""The environment variables of settings."""

from __future__ import annotations

from pydantic import AliasChoices

from acestage.settings import Settings


def variables_of(name: str) -> tuple[str, ...]:
    """The variables of the setting `name`: ours, or else upstream's, is the first, and wins."""
    alias = Settings.model_fields[name].validation_alias
    assert isinstance(alias, AliasChoices)
    return tuple(str(choice) for choice in alias.choices)


def all_variables() -> dict[str, tuple[str, ...]]:
    """Those of every setting."""
    return {name: variables_of(name) for name in Settings.model_fields}
