"""What is wrong with settings, in words."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from acestage.setting_names import all_variables

_SECRETS = frozenset({"api_key"})
"""Whose values no message may show."""


def setting_errors(error: ValidationError) -> list[str]:
    """A line for each wrong setting: the flag or the variables that set it, what is wrong, what was given."""
    return [_setting_error(item) for item in error.errors()]


def _setting_error(item: ErrorDetails) -> str:
    first, *rest = map(str, item["loc"])
    # Of the variables of a setting pydantic names the first, whichever was given.
    setting, names = next(
        ((setting, names) for setting, names in all_variables().items() if first in names), (first, (first,))
    )
    text = f"{'.'.join([' or '.join(names), *rest])}: {item['msg'].removeprefix('Value error, ')}"
    return text if setting in _SECRETS else f"{text} (given: {item['input']!r})"
