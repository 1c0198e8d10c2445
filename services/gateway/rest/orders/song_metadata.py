"""What a request says of a song beside prompt and lyrics: tempo, key, time, language, length."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from services.gateway.rest.orders.field_values import FieldValues
from services.gateway.rest.orders.song_fields import read

_UNKNOWN_METAS = ("n/a", "auto", "none")
"""Metadata of results, where nothing is known; clients send it back as it came."""
_UNKNOWN_NUMBERS = (0, -1)
_KEY_SCALE = re.compile(r"([A-Ga-g])([#b♯♭]?)\s*(m|min|minor|maj|major)?", re.IGNORECASE)
_TIME_SIGNATURES = {"2/4": "2", "3/4": "3", "4/4": "4", "6/8": "6"}


def metadata(values: FieldValues) -> dict[str, Any]:
    """The options of a generation for tempo, key, time and language; None where nothing is known."""
    return {
        "bpm": known_number(values, "bpm"),
        "key_scale": _known_text(values, "key_scale", _key_scale),
        "time_signature": _known_text(values, "time_signature", _time_signature),
        "language": _known_text(values, "vocal_language", str.lower),
    }


def known_number(values: FieldValues, name: str) -> Any:
    """The number in field `name`; None too where it says that nobody knows, as upstream's clients do."""
    number = None if _is_unknown(values, name) else read(values, name)
    return None if number in _UNKNOWN_NUMBERS else number


def _known_text(values: FieldValues, name: str, convert: Callable[[str], str]) -> str | None:
    text = None if _is_unknown(values, name) else read(values, name)
    return convert(text.strip()) if text else None


def _is_unknown(values: FieldValues, name: str) -> bool:
    value = values.fields.find(name)
    return isinstance(value, str) and value.strip().lower() in _UNKNOWN_METAS


def _key_scale(text: str) -> str:
    """A key as the model was trained to read it; what is none stays as it is, to be refused by name."""
    match = _KEY_SCALE.fullmatch(text)
    if match is None or match[3] is None:
        return text
    is_minor = match[3] == "m" or match[3].lower().startswith("min")
    return f"{match[1].upper()}{match[2].lower()} {'minor' if is_minor else 'major'}"


def _time_signature(text: str) -> str:
    return _TIME_SIGNATURES.get(text.replace(" ", ""), text)
