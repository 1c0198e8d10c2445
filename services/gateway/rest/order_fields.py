"""From the fields of a request to an order."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import Request

from acestage.errors import AcestageError, FieldViolation, InvalidArgumentError, NotFoundError
from acestage.generation_options import GenerationOptions
from acestage.naming import first_names
from services.gateway.exports.export import check_edge_fade
from services.gateway.exports.formats import ExportFormat, parse_format
from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.order import JobOrder
from services.gateway.option_names import renamed
from services.gateway.rest.field_values import TRUE_OR_FALSE, FieldValues
from services.gateway.rest.request_body import MAX_FILE_COUNT, RequestBody, checked_body
from services.gateway.rest.request_fields import ALIASES, METAS, OPTIONS, PARAMETERS, RequestFields, spellings
from services.gateway.rest.song_metadata import known_number, metadata
from services.gateway.rest.song_samples import SAMPLES, SongSample
from services.gateway.rest.source_audio import find_file, named_audio, upload

_FIELDS = {option: name for name, option in OPTIONS.items()} | {
    "source_id": "src_audio",
    "reference_id": "reference_audio",
    "seeds": "seed",
}
"""What options of a generation are called here, where they are called otherwise."""
_AUDIO_FIELDS = {"src_audio_path": "source_id", "reference_audio_path": "reference_id"}

_PLAIN: Mapping[str, Callable[[FieldValues, str], Any]] = {
    "lyrics": FieldValues.text,
    "instruction": FieldValues.text,
    "quantization": FieldValues.text,
    "shift": FieldValues.number,
    "guidance_scale": FieldValues.number,
    "cfg_interval_start": FieldValues.number,
    "cfg_interval_end": FieldValues.number,
    "inference_steps": FieldValues.whole_number,
    "batch_size": FieldValues.whole_number,
    "timesteps": FieldValues.numbers,
    "track_classes": FieldValues.names,
    "adapters": FieldValues.adapters,
    "clamp": FieldValues.flag,
}
"""Options that need no more than to be read as what they are."""

_ROUTINE: Mapping[str, tuple[str, ...]] = {
    "audio_cover_strength": ("cover", "cover-nofsq"),
    "cover_noise_strength": ("cover", "cover-nofsq"),
    "repainting_start": ("repaint", "lego"),
    "repainting_end": ("repaint", "lego"),
}
"""What clients send with every task as a matter of routine, and the tasks that take it."""
_WITHOUT_EFFECT = {"audio_cover_strength": 1.0, "cover_noise_strength": 0.0, "repainting_start": 0.0}

_LANGUAGE_MODEL_FLAGS = (
    *("thinking", "use_format", "use_cot_caption", "use_cot_language", "use_cot_metas"),
    *("constrained_decoding", "constrained_decoding_debug", "allow_lm_batch", "is_format_caption"),
)
_FLAGS = {"use_format": f"{TRUE_OR_FALSE}; the format of the audio is audio_format"}
"""What is accepted where there is more to say, as of one whose other name is `format`."""
_LANGUAGE_MODEL_FIELD = re.compile(r"lm_?[a-zA-Z_]+")

_OTHER_FIELDS = (
    *("prompt", "sample_mode", "sample_query", "vocal_language"),
    *("audio_duration", "bpm", "key_scale", "time_signature"),
    *("seed", "use_random_seed", "task_type", "infer_method", "track_name", "audio_code_string"),
    *("model", "seeds"),
    *("src_audio", "src_audio_path", "reference_audio", "reference_audio_path"),
    *("audio_format", "title", "edge_fade_ms", "ai_token", PARAMETERS, *METAS),
)
_KNOWN = frozenset(
    spelling
    for name in (*_PLAIN, *_ROUTINE, *_LANGUAGE_MODEL_FLAGS, *_OTHER_FIELDS, *ALIASES)
    for spelling in spellings(name)
)
_OF_SETTINGS = frozenset({"device", "dtype", "kernels"})
"""How a song was made, which its settings say beside the rest."""
_NAMED_COUNT = 10


async def _read_order(request: Request, idempotency_key: str) -> JobOrder:
    gateway: Gateway = request.app.state.gateway
    async with checked_body(request, MAX_FILE_COUNT) as body:
        values = FieldValues(RequestFields(body.values))
        notes: list[str] = []
        if values.flag("sample_mode"):
            # The same request with the same key is the same order.
            sample = random.Random(idempotency_key or None).choice(SAMPLES)
            values = _sampled(values, body, sample, notes)
        order = _order(values, body, gateway.formats)
        values.done()
        order = replace(order, notes=(*notes, *order.notes))
        return await _with_audio(order, gateway, body)


def _sampled(values: FieldValues, body: RequestBody, sample: SongSample, notes: list[str]) -> FieldValues:
    """With the fields of `sample`, unless those that were sent say what the music is like."""
    if values.text("prompt") or values.text("sample_query"):
        notes.append("sample_mode was left out: the prompt says what the music is like")
        return values
    notes.append("sample_mode took a song to begin with: no language model is served to write one")
    return FieldValues(RequestFields(body.values, sample.to_dict()))


async def submit(request: Request, idempotency_key: str = "") -> Job:
    """Starts what `request` orders, as JSON or as a form. The key is checked before anything is done with it.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
        InvalidArgumentError: with every wrong field, by its name here.
        HTTPException: 415 for other content types, 400 for damaged forms.
        AcestageError: the orchestrator cannot take it.
    """
    gateway: Gateway = request.app.state.gateway
    order = await _read_order(request, idempotency_key)
    try:
        return await gateway.book.submit(order, idempotency_key)
    except InvalidArgumentError as error:
        raise error.retold(_in_field_names) from error
    except NotFoundError as error:
        raise _unknown_audio(error, order) from error


def _unknown_audio(error: NotFoundError, order: JobOrder) -> AcestageError:
    """The fields that named audio which is not there; `error` itself where that is not what it says."""
    audio_id = error.metadata.get("audio_id")
    fields = [name for name, option in _AUDIO_FIELDS.items() if order.options.get(option) == audio_id]
    if audio_id is None or not fields:
        return error
    return InvalidArgumentError.of(
        FieldViolation(
            name,
            f"is {audio_id!r}, which is not, or no longer, kept here; accepted: what /v1/uploads returned",
        )
        for name in fields
    )


def _in_field_names(wrong: FieldViolation) -> FieldViolation:
    option, bracket, index = wrong.field.partition("[")
    name = _FIELDS.get(option, option) + bracket + index
    return FieldViolation(name, renamed(wrong.description, _FIELDS))


def _order(values: FieldValues, body: RequestBody, formats: Mapping[ExportFormat, str]) -> JobOrder:
    notes: list[str] = []
    options: dict[str, Any] = {}
    for name, read in _PLAIN.items():
        options[OPTIONS.get(name, name)] = read(values, name)
    options["model"] = values.read("model", _model, "the name of a model")
    options |= _task(values, body)
    options |= metadata(values)
    options |= _seeds(values)
    options |= _routine(values, options)
    has_source = bool(options["audio_codes"] or options["source_id"] or find_file(body, "src_audio"))
    options["duration_s"] = _duration_s(values, has_source, notes)
    caption = _caption(values, options, notes)
    notes += _left_out(values)
    return JobOrder(
        caption=caption,
        options=_sent(options),
        title=values.text("title") or "",
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
    for name in ("src_audio", "reference_audio"):
        if values.fields.find(name) is not None and find_file(body, name) is None:
            values.refuse(name, f"is no file; accepted: a file of a multipart form, or {name}_path")
    return {
        "task": _lower(values.text("task_type")),
        "source_id": named_audio(values, body, "src_audio_path"),
        "reference_id": named_audio(values, body, "reference_audio_path"),
        "audio_codes": values.read("audio_code_string", _audio_codes, "text, or a list of one text"),
        "track_name": _lower(values.text("track_name")),
        "infer_method": _lower(values.text("infer_method")),
    }


def _seeds(values: FieldValues) -> dict[str, Any]:
    """A seed that was sent counts, unless a random one was asked for in so many words.

    Settings of a song say `seeds` beside the first one.
    """
    name = "seed" if values.fields.find("seeds") is None else "seeds"
    seeds = values.whole_numbers(name) or []
    if values.flag("use_random_seed") or not seeds or seeds == [-1]:
        return {}
    if len(seeds) == 1:
        return {"seed": seeds[0]}
    batch_size = values.whole_number("batch_size")
    if batch_size not in (None, len(seeds)):
        values.refuse(name, f"has {len(seeds)} seeds; accepted: one, or one for each of {batch_size} takes")
    if set(seeds) == {-1}:
        return {"batch_size": len(seeds)}
    if -1 in seeds:
        values.refuse(name, "has -1 beside others; accepted: seeds from 0 on, or -1 for all")
    return {"seeds": seeds, "batch_size": None}


def _routine(values: FieldValues, options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    task = "cover" if options["audio_codes"] and not options["task"] else options["task"]
    for name, tasks in _ROUTINE.items():
        number = values.number(name)
        if name == "repainting_end" and number == -1:
            number = None
        is_for_task = task in tasks
        if is_for_task or number != _WITHOUT_EFFECT.get(name):
            found[OPTIONS.get(name, name)] = number
    return found


def _duration_s(values: FieldValues, has_source: bool, notes: list[str]) -> float | None:
    name = "audio_duration"
    duration_s = known_number(values, name, values.number)
    if duration_s is None:
        return None
    if has_source:
        notes.append(f"{name} was left out: the song is as long as its source")
        return None
    return duration_s


def _caption(values: FieldValues, options: Mapping[str, Any], notes: list[str]) -> str:
    caption = values.text("prompt") or ""
    query = values.text("sample_query")
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
    text = values.text("audio_format")
    if text is None:
        return ExportFormat.mp3
    try:
        return parse_format(text, formats)
    except InvalidArgumentError as error:
        values.refuse("audio_format", error.violations[0].description)
        return ExportFormat.mp3


def _edge_fade_ms(values: FieldValues) -> float:
    fade_ms = values.number("edge_fade_ms") or 0.0
    try:
        check_edge_fade(fade_ms)
    except InvalidArgumentError as error:
        values.refuse("edge_fade_ms", error.violations[0].description)
    return fade_ms


def _left_out(values: FieldValues) -> list[str]:
    """What no model here does, and what nobody knows, for people."""
    asked = [name for name in _LANGUAGE_MODEL_FLAGS if values.flag(name, _FLAGS.get(name, TRUE_OR_FALSE))]
    sent = values.fields.names()
    asked += [name for name in sent if _LANGUAGE_MODEL_FIELD.fullmatch(name)]
    known = _KNOWN | (_OF_SETTINGS if isinstance(values.fields.find("model"), dict) else frozenset())
    unknown = [name for name in sent if name not in known and not _LANGUAGE_MODEL_FIELD.fullmatch(name)]
    notes = []
    if asked:
        notes.append(f"no language model is served, so these had no effect: {_listed(asked)}")
    if unknown:
        notes.append(f"not known here, so without effect: {_listed(unknown)}")
    return notes


async def _with_audio(order: JobOrder, gateway: Gateway, body: RequestBody) -> JobOrder:
    """`order` with the files of `body` in the orchestrator's hands."""
    audio: Any = {
        "source_id": await upload(gateway.client, body, "src_audio"),
        "reference_id": await upload(gateway.client, body, "reference_audio"),
    }
    brought: Any = {name: audio_id for name, audio_id in audio.items() if audio_id is not None}
    return replace(order, options=order.options | brought)


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


def _lower(text: str | None) -> str | None:
    return text.strip().lower() if text else None


def _listed(names: list[str]) -> str:
    return first_names([name[:40] for name in names], _NAMED_COUNT)
