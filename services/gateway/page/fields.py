"""The fields of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from acestage.generation_options import TRACK_NAMES
from services.gateway.exports.formats import ExportFormat
from services.gateway.page.song_form import CUSTOM, MODES, SHOWN_IN, TRACK_MODES
from services.gateway.page.texts import Texts

LANGUAGES = ("en", "pt", "es", "fr", "de", "it", "ja", "ko", "zh", "ru")
NOTES = ("C", "C#", "D", "E♭", "E", "F", "F#", "G", "A♭", "A", "B♭", "B")
KEYS = tuple(f"{note} {mode}" for mode in ("major", "minor") for note in NOTES)
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
    add("cover_strength", gr.Slider, 0, 1, value=1, step=0.05, label=texts.cover_strength)
    tracks = [(texts.track_names[name], name) for name in TRACK_NAMES]
    add("track_name", gr.Dropdown, tracks, value=None, label=texts.track_name)
    add("track_classes", gr.Dropdown, tracks, value=None, multiselect=True, label=texts.track_classes)
    add("duration_s", gr.Slider, 10, 600, value=60, step=1, label=texts.duration)
    add("take_count", gr.Slider, 1, 8, value=1, step=1, label=texts.takes)
    add("seed", gr.Number, label=texts.seed, info=texts.seed_hint, value=-1, precision=0)
    with gr.Accordion(texts.details, open=False, elem_classes="of-fields"):
        # What is restored may be none of the choices; the services say what they accept.
        free: dict[str, Any] = {"allow_custom_value": True}
        add("vocal_language", gr.Dropdown, list(LANGUAGES), value="en", label=texts.vocal_language, **free)
        add("bpm", gr.Number, label=texts.bpm, info=texts.own_choice, value=0, precision=0)
        add("key_scale", gr.Dropdown, [(texts.unset, ""), *KEYS], value="", label=texts.key, **free)
        signatures = [(texts.unset, ""), "2", "3", "4", "6"]
        add("time_signature", gr.Dropdown, signatures, value="", label=texts.time_signature, **free)
        add("reference", gr.File, label=texts.reference, type="filepath", height=140)
        add("title", gr.Textbox, "", label=texts.title)
    with gr.Accordion(texts.advanced, open=False, elem_classes="of-fields"):
        models = model_choices(texts, [])
        add("model", gr.Dropdown, models, value="", label=texts.model, **free)
        own_choice: dict[str, Any] = {"value": 0, "info": texts.own_choice}
        add("step_count", gr.Slider, 0, 200, step=1, label=texts.steps, **own_choice)
        add("guidance_scale", gr.Slider, 0, 30, step=0.1, label=texts.guidance, **own_choice)
        add("shift", gr.Slider, 0, 10, step=0.1, label=texts.shift, **own_choice)
        add("infer_method", gr.Radio, ["ode", "sde"], value="ode", label=texts.method)
        add("timesteps", gr.Textbox, "", label=texts.timesteps, info=texts.timesteps_hint)
        add("adapters", gr.Textbox, "", label=texts.adapters, info=texts.adapters_hint)
        formats = list(usable_formats)
        add("audio_format", gr.Dropdown, formats, value=ExportFormat.mp3.value, label=texts.audio_format)
        add("edge_fade_ms", gr.Number, label=texts.edge_fade, value=0)
    return fields


def mode_choices(texts: Texts, *, knows_tracks: bool) -> list[tuple[str, str]]:
    """The modes, those for single tracks where a model that is served knows them."""
    modes = MODES + (TRACK_MODES if knows_tracks else ())
    return [(texts.modes[mode], mode) for mode in modes]


def model_choices(texts: Texts, names: Sequence[str]) -> list[tuple[str, str]]:
    """The models that are served, after the choice to take the first."""
    return [(texts.first_model, ""), *((name, name) for name in names)]


def visibility(mode: str, *values: Any) -> list[Any]:
    """For each field of `SHOWN_IN` whether it is shown; with its value, or one without would begin at 0."""
    return [
        gr.update(visible=mode in modes, value=value)
        for modes, value in zip(SHOWN_IN.values(), values, strict=True)
    ]
