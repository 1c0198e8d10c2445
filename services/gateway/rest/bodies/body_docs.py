"""What the description of a route says of the body that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.gateway.rest.finished_file import BINARY
from services.gateway.rest.orders.field_names import ALIASES, METAS, PARAMETERS
from services.gateway.rest.orders.song_fields import SONG_FIELDS, TEXT, FieldKind
from services.gateway.rest.orders.source_audio import FILES


def body_docs(
    fields: Mapping[str, FieldKind], *, required: Sequence[str] = (), is_needed: bool = True
) -> dict[str, Any]:
    """For `openapi_extra` of a route whose body has `fields`, and the key if it is not in the header."""
    schema = _schema(_properties(fields), required)
    return _docs(dict.fromkeys(_CONTENT_TYPES, schema), is_needed)


def song_docs() -> dict[str, Any]:
    """For `openapi_extra` of a route whose body orders a song."""
    objects = {
        PARAMETERS: {"type": "object", "description": "Fields that are not in the body itself."},
        METAS[0]: {"type": "object", "description": _also(METAS[1:], "Fields that are nowhere else.")},
    }
    properties = _properties(SONG_FIELDS) | objects
    files = {name: BINARY["schema"] | _names(name) for name in FILES}
    schemas = dict.fromkeys(_CONTENT_TYPES, _schema(properties, ()))
    return _docs(schemas | {_WITH_FILES: _schema(properties | files, ())}, is_needed=True)


_WITH_FILES = "multipart/form-data"
_CONTENT_TYPES = ("application/json", _WITH_FILES, "application/x-www-form-urlencoded")


def _properties(fields: Mapping[str, FieldKind]) -> dict[str, Any]:
    found = {name: {**kind.schema, **_names(name)} for name, kind in fields.items()}
    key = {"description": "The key, where the header `Authorization` has none."}
    return found | {"ai_token": {**TEXT.schema, **key}}


def _schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    named = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), **named}


def _docs(schemas: Mapping[str, Mapping[str, Any]], is_needed: bool) -> dict[str, Any]:
    content = {content_type: {"schema": schema} for content_type, schema in schemas.items()}
    return {"requestBody": {"required": is_needed, "content": content}}


def _names(name: str) -> dict[str, str]:
    """The other names of a field, where it has any."""
    return {"description": _also(ALIASES[name])} if name in ALIASES else {}


def _also(names: Sequence[str], text: str = "") -> str:
    return f"{text} Also called {', '.join(names)}.".strip()
