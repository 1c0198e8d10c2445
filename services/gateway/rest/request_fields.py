"""The values of a request by their names, all of which clients write in more than one way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from acestage.errors import InvalidArgumentError
from services.gateway.rest.request_body import parse_json

OPTIONS: Mapping[str, str] = {
    "prompt": "caption",
    "vocal_language": "language",
    "audio_duration": "duration_s",
    "inference_steps": "step_count",
    "task_type": "task",
    "audio_code_string": "audio_codes",
    "repainting_start": "repaint_start_s",
    "repainting_end": "repaint_end_s",
}
"""Fields that are options of a generation, which calls them otherwise, as the settings of a song do."""
ALIASES: Mapping[str, tuple[str, ...]] = {
    "sample_query": ("description", "desc"),
    "model": ("model_name", "dit_model"),
    "use_format": ("format",),
    "key_scale": ("keyscale", "key"),
    "time_signature": ("timesignature",),
    "audio_duration": ("duration", "target_duration"),
    "reference_audio_path": ("ref_audio_path", "reference_id"),
    "src_audio_path": ("ctx_audio_path", "source_audio_path", "source_id"),
    "use_cot_caption": ("cot_caption", "cot-caption"),
    "use_cot_language": ("cot_language", "cot-language"),
    "audio_cover_strength": ("cover_strength",),
    "track_classes": ("instruments",),
    "reference_audio": ("ref_audio",),
    "src_audio": ("ctx_audio",),
}
"""Other names of fields, those in the settings of a song too. `format` is a trap: it never means the format
of the audio."""

PARAMETERS = "param_obj"
METAS = ("metas", "meta", "metadata", "user_metadata", "userMetadata")


def spellings(name: str) -> tuple[str, ...]:
    """All names of a field, its own first and that of the option last; each may be in camel case."""
    names = (name, *ALIASES.get(name, ()), OPTIONS.get(name, name))
    return tuple(dict.fromkeys(spelling for each in names for spelling in (each, _camel_case(each))))


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


def _camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
