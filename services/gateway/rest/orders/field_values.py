"""Values of fields, which forms and some clients send as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from acestage.errors import FieldViolation, InvalidArgumentError
from acestage.generation_options import Adapter
from acestage.naming import shown
from services.gateway.rest.bodies.request_body import parse_json
from services.gateway.rest.orders.request_fields import RequestFields

T = TypeVar("T")

_TRUE = ("true", "1", "yes", "y", "on")
_FALSE = ("false", "0", "no", "n", "off")
MAX_LIST_LENGTH = 1_000
"""What may be longer in a request is text."""
_UP_TO = f"up to {MAX_LIST_LENGTH:,}"
TRUE_OR_FALSE = "true or false"
NAMES = f"{_UP_TO} names, as a list or with commas between them"


class FieldValues:
    """Reads fields as what they must be, and collects what is wrong; `done` says all of it at once.

    Each method returns None for a field that was not sent, and for one that is wrong.
    """

    def __init__(self, fields: RequestFields) -> None:
        self.fields = fields
        self._violations: list[FieldViolation] = []

    def text(self, name: str) -> str | None:
        return self.read(name, _text, "text")

    def number(self, name: str) -> float | None:
        return self.read(name, _number, "a number")

    def whole_number(self, name: str) -> int | None:
        return self.read(name, _whole_number, "a whole number")

    def flag(self, name: str, accepted: str = TRUE_OR_FALSE) -> bool | None:
        return self.read(name, _flag, accepted)

    def numbers(self, name: str) -> list[float] | None:
        return self.read(name, _numbers, f"{_UP_TO} numbers, as a list or with commas between them")

    def whole_numbers(self, name: str) -> list[int] | None:
        return self.read(name, _whole_numbers, f"a whole number, or {_UP_TO} with commas between them")

    def names(self, name: str, accepted: str = NAMES) -> list[str] | None:
        return self.read(name, _names, accepted)

    def adapters(self, name: str) -> list[Adapter] | None:
        return self.read(
            name, _adapters, '[{"name": …, "scale": …}], or "name:scale" with commas between them'
        )

    def read(self, name: str, convert: Callable[[Any], T], accepted: str) -> T | None:
        """The field as `convert` makes it, which raises `ValueError` where it is none of `accepted`."""
        value = self.fields.find(name)
        if value is None:
            return None
        try:
            return convert(value)
        except (ValueError, OverflowError):
            self.refuse(self.fields.spelling(name), f"is {shown(value)}; accepted: {accepted}")
            return None

    def refuse(self, name: str, description: str) -> None:
        self._violations.append(FieldViolation(name, description))

    def done(self) -> None:
        """
        Raises:
            InvalidArgumentError: with every wrong field.
        """
        if self._violations:
            raise InvalidArgumentError.of(dict.fromkeys(self._violations))  # some fields are read twice


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    raise ValueError


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole_number(value: Any) -> int:
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.lstrip("+-").isdecimal() else _whole_number(float(text))
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError
    return int(value)


def _flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if isinstance(value, bool | int | str) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    raise ValueError


def _items(value: Any) -> Sequence[Any]:
    """The items of a list, of one that is JSON in a text, or of a text with commas."""
    if isinstance(value, str):
        text = value.strip()
        value = _parsed(text) if text.startswith("[") else [item for item in text.split(",") if item.strip()]
    if not isinstance(value, list):
        value = [value]
    if len(value) > MAX_LIST_LENGTH:
        raise ValueError
    return value  # type: ignore[no-any-return]


def _parsed(text: str) -> Any:
    try:
        return parse_json(text, "")
    except InvalidArgumentError as error:
        raise ValueError from error


def _numbers(value: Any) -> list[float]:
    return [_number(item) for item in _items(value)]


def _whole_numbers(value: Any) -> list[int]:
    return [_whole_number(item) for item in _items(value)]


def _names(value: Any) -> list[str]:
    return [_text(item).strip() for item in _items(value)]


def _adapters(value: Any) -> list[Adapter]:
    return [_adapter(item) for item in _items(value)]


def _adapter(value: Any) -> Adapter:
    if isinstance(value, dict):
        if value.keys() - {"name", "scale"} or not isinstance(value.get("name"), str):
            raise ValueError
        scale = value.get("scale")
        return Adapter(value["name"]) if scale is None else Adapter(value["name"], _number(scale))
    name, colon, scale = _text(value).strip().partition(":")
    return Adapter(name.strip(), _number(scale)) if colon else Adapter(name)
