"""The fields of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from acestage.generation_options import TRACK_NAMES
from acestage.limits import Limits
from acestage.status import Status
from services.gateway.exports.formats import ExportFormat
from services.gateway.page.restoring import Served
from services.gateway.page.song_form import CUSTOM, METHODS, MODES, RANGES, SHOWN_IN, TRACK_MODES
from services.gateway.page.texts import Texts
from services.gateway.page.views import limit_info

LANGUAGES = ("en", "pt", "es", "fr", "de", "it", "ja", "ko", "zh", "ru")
WAVE = '<canvas height="96" tabindex="-1" aria-hidden="true"></canvas>'
"""Where the script draws the source."""


def build_fields(texts: Texts, usable_formats: Sequence[str]) -> dict[str, Any]:
    """The fields by their names in `SongForm`; the script of the page finds them as `field-NAME`."""
    fields: dict[str, Any] = {}

    def add(name: str, kind: Any, *values: Any, **options: Any) -> None:
        is_shown = CUSTOM in SHOWN_IN.get(name, (CUSTOM,))
        fields[name] = kind(*values, elem_id=f"field-{name}", visible=is_shown, **options)

    add("mode", gr.Radio, mode_choices(texts, knows_tracks=False), value=CUSTOM, label=texts.mode)
    add("caption", gr.Textbox, "", label=texts.caption, placeholder=texts.caption_hint, lines=2)
    add("lyrics", gr.Textbox, "", label=texts.lyrics, placeholder=texts.lyrics_hint, lines=6)
    add("is_instrumental", gr.Checkbox, label=texts.instrumental)
    add("source", gr.File, label=texts.source, type="filepath", height=140)
    gr.HTML(WAVE, elem_id="source-wave", elem_classes="maybe-empty")
    with gr.Row():
        add("start_s", gr.Number, label=texts.start, info=texts.start_hint, value=None)
        add("end_s", gr.Number, label=texts.end, info=texts.end_hint, value=None)
    add(
        "cover_strength", gr.Slider, *RANGES["cover_strength"], value=1, step=0.05, label=texts.cover_strength
    )
    tracks = [(texts.track_names[name], name) for name in TRACK_NAMES]
    add("track_name", gr.Dropdown, tracks, value=None, label=texts.track_name)
    add("track_classes", gr.Dropdown, tracks, value=None, multiselect=True, label=texts.track_classes)
    add("duration_s", gr.Slider, *RANGES["duration_s"], value=60, step=1, label=texts.duration)
    add("take_count", gr.Slider, *RANGES["take_count"], value=1, step=1, label=texts.takes)
    add("seed", gr.Number, label=texts.seed, info=texts.seed_hint, value=-1, precision=0)
    with gr.Accordion(texts.details, open=False, elem_classes="of-fields"):
        # What is restored may be none of the choices; the services say what they accept.
        free: dict[str, Any] = {"allow_custom_value": True}
        languages = [(texts.languages[code], code) for code in LANGUAGES]
        add("vocal_language", gr.Dropdown, languages, value=texts.code, label=texts.vocal_language, **free)
        add("bpm", gr.Number, label=texts.bpm, info=texts.own_choice, value=0, precision=0)
        add("key_scale", gr.Dropdown, _key_choices(texts), value="", label=texts.key, **free)
        signatures = [(texts.unset, ""), "2", "3", "4", "6"]
        add("time_signature", gr.Dropdown, signatures, value="", label=texts.time_signature, **free)
        add("reference", gr.File, label=texts.reference, type="filepath", height=140)
        add("title", gr.Textbox, "", label=texts.title)
    with gr.Accordion(texts.advanced, open=False, elem_classes="of-fields"):
        models = model_choices(texts, [])
        add("model", gr.Dropdown, models, value="", label=texts.model, **free)
        own_choice: dict[str, Any] = {"value": 0, "info": texts.own_choice}
        add("step_count", gr.Slider, *RANGES["step_count"], step=1, label=texts.steps, **own_choice)
        add(
            "guidance_scale",
            gr.Slider,
            *RANGES["guidance_scale"],
            step=0.1,
            label=texts.guidance,
            **own_choice,
        )
        add("shift", gr.Slider, *RANGES["shift"], step=0.1, label=texts.shift, **own_choice)
        add("infer_method", gr.Radio, list(METHODS), value="ode", label=texts.method)
        add("timesteps", gr.Textbox, "", label=texts.timesteps, info=texts.timesteps_hint)
        add("adapters", gr.Textbox, "", label=texts.adapters, info=texts.adapters_hint)
        formats = list(usable_formats)
        add("audio_format", gr.Dropdown, formats, value=ExportFormat.mp3.value, label=texts.audio_format)
        add("edge_fade_ms", gr.Number, label=texts.edge_fade, value=0)
    return fields


def keep_fields(blocks: gr.Blocks, fields: Mapping[str, Any]) -> Any:
    """Lets the script of the page keep what is in the fields, but for files.

    Returns:
        The event after which all is back when the page has been opened.
    """
    names = [name for name, field in fields.items() if not isinstance(field, gr.File)]
    kept = [fields[name] for name in names]
    listed = json.dumps(names)
    changes = [field.change for field in kept]
    gr.on(changes, None, kept, None, js=f"(...values) => acestage.keep({listed}, values)")
    return blocks.load(None, kept, kept, js=f"(...values) => acestage.takeUp({listed}, values)")


def mode_choices(texts: Texts, *, knows_tracks: bool) -> list[tuple[str, str]]:
    """The modes, those for single tracks where a model that is served knows them."""
    modes = MODES + (TRACK_MODES if knows_tracks else ())
    return [(texts.modes[mode], mode) for mode in modes]


def _key_choices(texts: Texts) -> list[tuple[str, str]]:
    """Every key, after the choice to leave it open."""
    keys = [
        (f"{shown} {scale_shown}", f"{note} {scale}")
        for scale, scale_shown in texts.scales.items()
        for note, shown in texts.notes.items()
    ]
    return [(texts.unset, ""), *keys]


def model_choices(texts: Texts, names: Sequence[str]) -> list[tuple[str, str]]:
    """The models that are served, after the choice to take the first."""
    return [(texts.first_model, ""), *((name, name) for name in names)]


def visibility(mode: str, *values: Any) -> list[Any]:
    """For each field of `SHOWN_IN` whether it is shown; with its value, or one without would begin at 0."""
    return [
        gr.update(visible=mode in modes, value=value)
        for modes, value in zip(SHOWN_IN.values(), values, strict=True)
    ]


def lowered(served: Served, duration_s: float | None, take_count: int | None, mode: str) -> dict[str, Any]:
    """Those of the values beyond what is served, and what they become. Less may be half typed."""
    given = {"duration_s": duration_s, "take_count": take_count}
    beyond: dict[str, Any] = {
        name: served.ranges[name][1]
        for name, value in given.items()
        if value is not None and value > served.ranges[name][1]
    }
    return beyond if mode in served.modes else beyond | {"mode": CUSTOM}


def limited(limits: Limits, status: Status, values: Mapping[str, Any], texts: Texts) -> list[Any]:
    """Duration, takes, mode and model as a machine allows them, with the `values` that become others."""
    longest, most = limits.max_duration_s, limits.max_batch_size
    new = {name: {"value": value} for name, value in values.items()}
    return [
        gr.update(maximum=longest.value, info=limit_info(longest, texts), **new.get("duration_s", {})),
        gr.update(
            maximum=most.value,
            info=limit_info(most, texts),
            interactive=most.value > 1,
            **new.get("take_count", {}),
        ),
        gr.update(choices=mode_choices(texts, knows_tracks=status.has_tracks_model), **new.get("mode", {})),
        gr.update(choices=model_choices(texts, status.served_models)),
    ]
