"""What the page says, in whichever language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

NOTES = ("C", "C#", "D", "E♭", "E", "F", "F#", "G", "A♭", "A", "B♭", "B")


class _Figures(Formatter):
    """Fills in numbers as people of a language write them."""

    def __init__(self, decimal: str) -> None:
        self._decimal = decimal

    def format_field(self, value: Any, format_spec: str) -> str:
        shown = str(super().format_field(value, format_spec))
        return shown.replace(".", self._decimal) if isinstance(value, float) else shown


@dataclass(frozen=True, slots=True)
class Texts:
    """All words of the page. Those in braces are filled in.

    Attributes:
        code: of the language, as models have it.
        locale: the same, as browsers have it.
        decimal: what stands before the decimals of a number.
        phrases: patterns of what the services say, and words for them.
    """

    code: str
    locale: str
    decimal: str
    other_language: str
    mode: str
    modes: Mapping[str, str]
    caption: str
    caption_hint: str
    lyrics: str
    lyrics_hint: str
    instrumental: str
    source: str
    source_missing: str
    start: str
    start_hint: str
    end: str
    end_hint: str
    cover_strength: str
    track_name: str
    track_classes: str
    track_names: Mapping[str, str]
    details: str
    vocal_language: str
    languages: Mapping[str, str]
    bpm: str
    key: str
    notes: Mapping[str, str]
    scales: Mapping[str, str]
    time_signature: str
    duration: str
    seed: str
    seed_hint: str
    takes: str
    reference: str
    advanced: str
    model: str
    first_model: str
    steps: str
    guidance: str
    shift: str
    method: str
    timesteps: str
    timesteps_hint: str
    adapters: str
    adapters_hint: str
    audio_format: str
    edge_fade: str
    title: str
    unset: str
    generate: str
    stop: str
    status: str
    history: str
    history_pick: str
    show: str
    restore: str
    restore_file: str
    restored: str
    restored_but: str
    choose_again: str
    impossible: str
    fieldless: str
    machine: str
    ready: str
    queued: str
    starts: str
    starts_in: str
    waits: str
    works: str
    left: str
    reading: str
    writing: str
    made_already: str
    done: str
    failed: str
    stopped: str
    states: Mapping[str, str]
    no_services: str
    limit_source: str
    longest: str
    most_takes: str
    take: str
    take_name: str
    pick_first: str
    in_work: str
    download: str
    free: str
    held_by: str
    held_by_nobody: str
    own_choice: str
    text_encoder: str
    dit: str
    vae: str
    phrases: tuple[tuple[str, str], ...] = ()

    def filled(self, text: str, **values: Any) -> str:
        """One of these texts with `values` in the place of what stands in braces."""
        return _Figures(self.decimal).vformat(text, (), values)

    def translated(self, text: str) -> str:
        """What the services say, which is English, as far as `phrases` have patterns and words for it."""
        for pattern, phrase in self.phrases:
            text = re.sub(pattern, phrase, text)
        return text
