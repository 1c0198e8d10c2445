"""From the fields of a request to an order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from acestage.errors import InvalidArgumentError
from acestage.generation_options import GenerationOptions
from acestage.naming import first_names
from services.gateway.exports.export import check_edge_fade
from services.gateway.exports.formats import ExportFormat, parse_format
from services.gateway.jobs.order import JobOrder
from services.gateway.rest.bodies.request_body import RequestBody
from services.gateway.rest.orders.field_names import ALIASES, METAS, OPTIONS, PARAMETERS, spellings
from services.gateway.rest.orders.field_values import FieldValues
from services.gateway.rest.orders.seed_fields import seed_options
from services.gateway.rest.orders.song_fields import LANGUAGE_MODEL_FIELDS, SONG_FIELDS, read
from services.gateway.rest.orders.song_metadata import known_number, metadata
from services.gateway.rest.orders.source_audio import FILES, find_file, named_audio

_PLAIN = (
    *("lyrics", "instruction", "quantization", "shift", "guidance_scale", "inference_steps"),
    *("cfg_interval_start", "cfg_interval_end", "batch_size", "timesteps", "track_classes", "adapters"),
    *("clamp", "model"),
)
"""Options that need no more than to be read as what they are."""

TEXT_TO_MUSIC = "text2music"
_OF_TASKS: Mapping[str, tuple[str, ...]] = {
    "audio_cover_strength": ("cover", "cover-nofsq"),
    "cover_noise_strength": ("cover", "cover-nofsq"),
    "repainting_start": ("repaint", "lego"),
    "repainting_end": ("repaint", "lego"),
    "track_name": ("extract", "lego"),
    "track_classes": ("complete",),
}
"""Fields that not every task has, and the tasks that have them."""
_ROUTINE = ("audio_cover_strength", "cover_noise_strength", "repainting_start", "repainting_end")
"""Those that clients send with every task."""
_WITHOUT_EFFECT = {"audio_cover_strength": 1.0, "cover_noise_strength": 0.0, "repainting_start": 0.0}

_LANGUAGE_MODEL_FIELD = re.compile(r"lm_?[a-zA-Z_]+")
_KNOWN = frozenset(
    spelling
    for name in (*SONG_FIELDS, *FILES, *ALIASES, "ai_token", PARAMETERS, *METAS)
    for spelling in spellings(name)
)
_KNOWN_FILES = frozenset(spelling for name in FILES for spelling in spellings(name))
_OF_SETTINGS = frozenset({"device", "dtype", "kernels"})
"""How a song was made, which its settings say beside the rest."""
_NAMED_COUNT = 10


def order_of(
    values: FieldValues,
    body: RequestBody,
    formats: Mapping[ExportFormat, str],
    *,
    is_forgiving: bool = False,
) -> JobOrder:
    """What `values`, and the files of `body`, order; wrong ones are noted in `values`.

    Args:
        values: of the request.
        body: that they are from.
        formats: with "" for those that can be written here.
        is_forgiving: what does not go with the rest is left out, and the order's notes say so.
    """
    notes: list[str] = []
    options: dict[str, Any] = {OPTIONS.get(name, name): read(values, name) for name in _PLAIN}
    options |= _task(values, body)
    options |= metadata(values)
    options |= seed_options(values, notes, is_forgiving=is_forgiving)
    has_source = bool(options["source_id"] or find_file(body, "src_audio"))
    options |= _routine(values, options)
    if is_forgiving:
        _leave_other_tasks(values, options, has_source, notes)
    options["duration_s"] = _duration_s(values, has_source or bool(options["audio_codes"]), notes)
    caption = _caption(values, options, notes)
    notes += _left_out(values, body)
    return JobOrder(
        caption=caption,
        options=_sent(options),
        title=read(values, "title") or "",
        audio_format=_audio_format(values, formats),
        edge_fade_ms=_edge_fade_ms(values),
        notes=tuple(notes),
    )


def _sent(options: Mapping[str, Any]) -> GenerationOptions:
    """Without what was not sent: the model has defaults of its own."""
    sent: Any = {name: value for name, value in options.items() if value not in (None, "", [])}
    return sent  # type: ignore[no-any-return]


def _task(values: FieldValues, body: RequestBody) -> dict[str, Any]:
    """What is to be done, and what it is done with."""
    for name in FILES:
        if values.fields.find(name) is not None and find_file(body, name) is None:
            values.refuse(name, f"is no file; accepted: a file of a multipart form, or {name}_path")
    return {
        "task": _lower(read(values, "task_type")),
        "source_id": named_audio(values, body, "src_audio_path"),
        "reference_id": named_audio(values, body, "reference_audio_path"),
        "audio_codes": read(values, "audio_code_string"),
        "track_name": _lower(read(values, "track_name")),
        "infer_method": _lower(read(values, "infer_method")),
    }


def _routine(values: FieldValues, options: Mapping[str, Any]) -> dict[str, Any]:
    """What clients send with every task; for other tasks only what would have an effect."""
    found: dict[str, Any] = {}
    for name in _ROUTINE:
        number = read(values, name)
        if name == "repainting_end" and number == -1:
            number = None
        if _task_of(options) in _OF_TASKS[name] or number != _WITHOUT_EFFECT.get(name):
            found[OPTIONS.get(name, name)] = number
    return found


def _leave_other_tasks(
    values: FieldValues, options: dict[str, Any], has_source: bool, notes: list[str]
) -> None:
    """Drops options that belong to other tasks."""
    task, left = _task_of(options), []
    for name, tasks in _OF_TASKS.items():
        option = OPTIONS.get(name, name)
        # Codes are a source that no noise can be added to.
        is_for_task = task in tasks and (has_source or name != "cover_noise_strength")
        if options.get(option) not in (None, "", [], _WITHOUT_EFFECT.get(name)) and not is_for_task:
            options[option] = None
            left.append(values.fields.spelling(name))
    if left:
        notes.append(f"of other tasks, so without effect: {_listed(left)}")


def _task_of(options: Mapping[str, Any]) -> str:
    task: str = options["task"] or TEXT_TO_MUSIC
    return "cover" if task == TEXT_TO_MUSIC and options["audio_codes"] else task


def _duration_s(values: FieldValues, has_source: bool, notes: list[str]) -> float | None:
    name = "audio_duration"
    duration_s: float | None = known_number(values, name)
    if duration_s is None:
        return None
    if has_source:
        notes.append(f"{name} was left out: the song is as long as its source")
        return None
    return duration_s


def _caption(values: FieldValues, options: Mapping[str, Any], notes: list[str]) -> str:
    caption: str = read(values, "prompt") or ""
    query: str | None = read(values, "sample_query")
    if query and not caption:
        notes.append("sample_query became the prompt as it is: no language model is served to write one")
        return query
    if query:
        notes.append("sample_query was left out: the prompt says what the music is like")
    tracks = [name for name in (options["track_name"], *(options["track_classes"] or ())) if name]
    if not caption and tracks:
        notes.append("the tracks became the prompt, which was empty")
        return ", ".join(tracks).replace("_", " ")
    return caption


def _audio_format(values: FieldValues, formats: Mapping[ExportFormat, str]) -> ExportFormat:
    text = read(values, "audio_format")
    if text is None:
        return ExportFormat.mp3
    try:
        return parse_format(text, formats)
    except InvalidArgumentError as error:
        values.refuse("audio_format", error.violations[0].description)
        return ExportFormat.mp3


def _edge_fade_ms(values: FieldValues) -> float:
    fade_ms: float = read(values, "edge_fade_ms") or 0.0
    try:
        check_edge_fade(fade_ms)
    except InvalidArgumentError as error:
        values.refuse("edge_fade_ms", error.violations[0].description)
    return fade_ms


def _left_out(values: FieldValues, body: RequestBody) -> list[str]:
    """What no model here does, and what nobody knows, for people."""
    asked = [name for name in LANGUAGE_MODEL_FIELDS if read(values, name)]
    sent = values.fields.names()
    asked += [name for name in sent if _LANGUAGE_MODEL_FIELD.fullmatch(name)]
    known = _KNOWN | (_OF_SETTINGS if isinstance(values.fields.find("model"), dict) else frozenset())
    unknown = [name for name in sent if name not in known and not _LANGUAGE_MODEL_FIELD.fullmatch(name)]
    unknown += [f"the file {name}" for name in body.files if name not in _KNOWN_FILES]
    notes = []
    if asked:
        notes.append(f"no language model is served, so these had no effect: {_listed(asked)}")
    if unknown:
        notes.append(f"not known here, so without effect: {_listed(unknown)}")
    return notes


def _lower(text: str | None) -> str | None:
    return text.strip().lower() if text else None


def _listed(names: list[str]) -> str:
    return first_names([name[:40] for name in names], _NAMED_COUNT)
