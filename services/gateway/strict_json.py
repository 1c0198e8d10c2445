"""JSON that every program can read: without NaN and infinities, and of text that UTF-8 can encode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from acestage.errors import InvalidArgumentError


def parsed_json(data: str | bytes) -> Any:
    """What `data` says.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """
    return json.loads(data, parse_constant=_refuse_constant)


def check_text(values: Mapping[str, Any]) -> None:
    """No answer could hold half of a surrogate pair.

    JSON can escape one, some charsets can encode it, and it stands for bytes of a form that are no UTF-8.

    Raises:
        InvalidArgumentError: names the first of `values` that has one.
    """
    for name, value in values.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError.at(
                name.encode("utf-8", "backslashreplace").decode(),
                "has half of a surrogate pair, or bytes that are no UTF-8; accepted: UTF-8 text",
            ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
