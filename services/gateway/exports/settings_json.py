"""Settings of a generation as JSON, within bounds that hold for what we write and for what we read."""

from __future__ import annotations

import json
from typing import Any

from acestage.errors import InvalidArgumentError
from services.gateway.strict_json import parsed_json

LARGEST_SETTINGS_BYTES = 1 << 20
"""Twenty times the longest lyrics that the models read."""
DEEPEST_SETTINGS = 20
"""Levels of objects and lists in each other; ours have four."""


def settings_text(settings: dict[str, Any], *, indent: int | None = None) -> str:
    """`settings` as JSON that `parsed_settings` takes, encodable as UTF-8.

    Raises:
        InvalidArgumentError: they are no JSON, or too large.
    """
    try:
        text = json.dumps(settings, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError.at("settings", f"cannot be written as JSON: {error}") from error
    # Half of a surrogate pair has no UTF-8, but its escape in JSON is the same as in Python.
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > LARGEST_SETTINGS_BYTES:
        raise InvalidArgumentError.at(
            "settings", f"are {len(data)} bytes of JSON; accepted: up to {LARGEST_SETTINGS_BYTES}"
        )
    return data.decode()


def parsed_settings(data: str | bytes, field: str) -> dict[str, Any]:
    """The settings in `data`, which anybody may have written.

    Raises:
        InvalidArgumentError: it is no JSON object, or too large; names `field`.
    """
    if len(data) > LARGEST_SETTINGS_BYTES:
        raise InvalidArgumentError.at(
            field, f"has more than {LARGEST_SETTINGS_BYTES} bytes of settings; accepted: no more"
        )
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        settings = parsed_json(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError.at(field, "has settings that are damaged: they are not JSON") from error
    if not isinstance(settings, dict):
        raise InvalidArgumentError.at(field, "has settings that are damaged: they are not a JSON object")
    if _is_deeper(settings, DEEPEST_SETTINGS):
        raise InvalidArgumentError.at(
            field, f"has settings of more than {DEEPEST_SETTINGS} levels in each other; accepted: up to those"
        )
    return settings


def _is_deeper(value: Any, level_count: int) -> bool:
    """Whether `value` has more levels, which no answer could be written of."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return level_count == 0 or any(_is_deeper(one, level_count - 1) for one in inner)
