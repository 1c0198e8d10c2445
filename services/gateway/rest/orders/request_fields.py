"""The values of a request by the names of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from acestage.errors import InvalidArgumentError
from services.gateway.rest.bodies.request_body import parse_json
from services.gateway.rest.orders.field_names import METAS, PARAMETERS, spellings


class RequestFields:
    """Finds a field in the body, then in its `param_obj`, then in the first of its `metas` and the like.

    Args:
        values: what the body holds, by name.
        others: where a field is looked for that is nowhere in the body.

    Raises:
        InvalidArgumentError: one of these is no object.
    """

    def __init__(self, values: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> None:
        parameters = next((name for name in spellings(PARAMETERS) if not is_unset(values.get(name))), None)
        metas = next((name for name in METAS if not is_unset(values.get(name))), None)
        self._places = (
            values,
            *(_object(values[name], name) for name in (parameters, metas) if name is not None),
            others or {},
        )

    def find(self, name: str) -> Any:
        """The value of a field; None where it was not sent, or sent empty."""
        return self._found(name)[1]

    def spelling(self, name: str) -> str:
        """How the field was called that `find` finds."""
        return self._found(name)[0]

    def _found(self, name: str) -> tuple[str, Any]:
        for place in self._places:
            for spelling in spellings(name):
                if not is_unset(value := place.get(spelling)):
                    return spelling, value
        return name, None

    def names(self) -> list[str]:
        """All names that were sent with a value."""
        return [name for place in self._places for name, value in place.items() if not is_unset(value)]


def is_unset(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _object(value: Any, name: str) -> Mapping[str, Any]:
    found = parse_json(value, name) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise InvalidArgumentError.at(name, "is no object; accepted: a JSON object, or one as text")
    return found
