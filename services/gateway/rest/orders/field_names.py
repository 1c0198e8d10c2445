"""The names of a request's fields, all of which clients write in more than one way."""

from __future__ import annotations

import re
from collections.abc import Mapping

from acestage.errors import FieldViolation
from services.gateway.option_names import renamed

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

_FIELDS = {option: name for name, option in OPTIONS.items()} | {
    "source_id": "src_audio",
    "reference_id": "reference_audio",
    "seeds": "seed",
}
"""What options of a generation are called here, where they are called otherwise."""


def spellings(name: str) -> tuple[str, ...]:
    """All names of a field, its own first and that of the option last; each may be in camel case."""
    names = (name, *ALIASES.get(name, ()), OPTIONS.get(name, name))
    return tuple(dict.fromkeys(spelling for each in names for spelling in (each, _camel_case(each))))


def limited_field(option: str) -> str:
    """The field whose value a limit lowered; of a list of seeds it is their number, and so the takes."""
    return "batch_size" if option == "seeds" else _FIELDS.get(option, option)


def in_field_names(wrong: FieldViolation) -> FieldViolation:
    """What is wrong with an option, said of the field for it."""
    option, bracket, index = wrong.field.partition("[")
    name = _FIELDS.get(option, option) + bracket + index
    return FieldViolation(name, renamed(wrong.description, _FIELDS))


def _camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
