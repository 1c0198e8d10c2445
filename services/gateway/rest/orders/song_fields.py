"""The fields of a song in a request, and what each of them must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.rest.orders.field_values import TRUE_OR_FALSE, FieldValues


@dataclass(frozen=True, slots=True)
class FieldKind:
    """What a field must be.

    Attributes:
        read: the field of that name from the values; None where it was not sent, or is wrong.
        schema: the same for machines, as OpenAPI writes it. In forms, all of it is text.
    """

    read: Callable[[FieldValues, str], Any]
    schema: Mapping[str, Any]


def _or_text(kind: str) -> Mapping[str, Any]:
    return {"anyOf": [{"type": "array", "items": {"type": kind}}, {"type": kind}, {"type": "string"}]}


def _model(value: Any) -> str:
    """A name; settings of a song have it in an object."""
    name = value.get("name") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise ValueError
    return name


def _audio_codes(value: Any) -> str:
    """One text of codes; a list may stand for it, as each take had its own upstream."""
    items = value if isinstance(value, list) else [value]
    if len(items) > 1 or not all(isinstance(item, str) for item in items):
        raise ValueError
    return items[0] if items else ""


TEXT = FieldKind(FieldValues.text, {"type": "string"})
NUMBER = FieldKind(FieldValues.number, {"type": "number"})
WHOLE_NUMBER = FieldKind(FieldValues.whole_number, {"type": "integer"})
FLAG = FieldKind(FieldValues.flag, {"type": "boolean"})
NUMBERS = FieldKind(FieldValues.numbers, _or_text("number"))
WHOLE_NUMBERS = FieldKind(FieldValues.whole_numbers, _or_text("integer"))
NAMES = FieldKind(FieldValues.names, _or_text("string"))
MODEL = FieldKind(
    lambda values, name: values.read(name, _model, "the name of a model"),
    {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"name": {"type": "string"}}}]},
)
_ADAPTER = {"name": {"type": "string"}, "scale": {"type": "number"}}
_ADAPTERS = FieldKind(
    FieldValues.adapters,
    {"anyOf": [{"type": "array", "items": {"type": "object", "properties": _ADAPTER}}, {"type": "string"}]},
)
_AUDIO_CODES = FieldKind(
    lambda values, name: values.read(name, _audio_codes, "text, or a list of one text"), {"type": "string"}
)
_USE_FORMAT = FieldKind(
    # Its other name is `format`.
    lambda values, name: values.flag(name, f"{TRUE_OR_FALSE}; the format of the audio is audio_format"),
    FLAG.schema,
)

LANGUAGE_MODEL_FIELDS: Mapping[str, FieldKind] = {
    "thinking": FLAG,
    "use_format": _USE_FORMAT,
    "use_cot_caption": FLAG,
    "use_cot_language": FLAG,
    "use_cot_metas": FLAG,
    "constrained_decoding": FLAG,
    "constrained_decoding_debug": FLAG,
    "allow_lm_batch": FLAG,
    "is_format_caption": FLAG,
}
"""What a language model would be asked for."""

SONG_FIELDS: Mapping[str, FieldKind] = {
    "prompt": TEXT,
    "lyrics": TEXT,
    "vocal_language": TEXT,
    "bpm": WHOLE_NUMBER,
    "key_scale": TEXT,
    "time_signature": TEXT,
    "audio_duration": NUMBER,
    "batch_size": WHOLE_NUMBER,
    "seed": WHOLE_NUMBERS,
    "seeds": WHOLE_NUMBERS,
    "use_random_seed": FLAG,
    "inference_steps": WHOLE_NUMBER,
    "guidance_scale": NUMBER,
    "shift": NUMBER,
    "timesteps": NUMBERS,
    "infer_method": TEXT,
    "cfg_interval_start": NUMBER,
    "cfg_interval_end": NUMBER,
    "quantization": TEXT,
    "task_type": TEXT,
    "src_audio_path": TEXT,
    "reference_audio_path": TEXT,
    "repainting_start": NUMBER,
    "repainting_end": NUMBER,
    "audio_cover_strength": NUMBER,
    "cover_noise_strength": NUMBER,
    "audio_code_string": _AUDIO_CODES,
    "track_name": TEXT,
    "track_classes": NAMES,
    "instruction": TEXT,
    "model": MODEL,
    "adapters": _ADAPTERS,
    "audio_format": TEXT,
    "title": TEXT,
    "edge_fade_ms": NUMBER,
    "clamp": FLAG,
    "sample_mode": FLAG,
    "sample_query": TEXT,
    **LANGUAGE_MODEL_FIELDS,
}
"""All that a request may say of a song, but for its files."""


def read(values: FieldValues, name: str) -> Any:
    """Field `name` of `SONG_FIELDS` as it must be; None where it was not sent, or is wrong."""
    return SONG_FIELDS[name].read(values, name)
