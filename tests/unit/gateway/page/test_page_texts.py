"""The page says the same in each language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from string import Formatter

import pytest

from acestage.generation_options import TRACK_NAMES
from services.gateway.jobs.record import JobState
from services.gateway.page.song_form import MODES, TRACK_MODES
from services.gateway.page.texts import TEXTS, Texts


def placeholders(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field}


def test_both_languages_fill_in_the_same() -> None:
    english, portuguese = TEXTS["en"], TEXTS["pt"]
    for field in fields(Texts):
        one, other = getattr(english, field.name), getattr(portuguese, field.name)
        if isinstance(one, str):
            assert placeholders(one) == placeholders(other), field.name


@pytest.mark.parametrize("language", TEXTS)
def test_there_is_a_word_for_each_mode_track_and_state(language: str) -> None:
    texts = TEXTS[language]
    known: list[tuple[Mapping[str, str], object]] = [
        (texts.modes, {*MODES, *TRACK_MODES}),
        (texts.track_names, set(TRACK_NAMES)),
        (texts.states, set(JobState)),
    ]
    for words, names in known:
        assert set(words) == names


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("is empty; say what the music is like", "está vazio; descreva a música"),
        ("is 700; accepted: 10 to 600 (the model)", "é 700; aceito: 10 a 600 (o modelo)"),
        (
            "is empty; the task 'repaint' needs source_id",
            "está vazio; a tarefa 'repaint' precisa de source_id",
        ),
        ("has 9 tracks; accepted: up to 8", "tem 9 tracks; aceito: até 8"),
        ("is set; accepted for extract, lego alone", "está preenchido; aceito só para extract, lego"),
        ("the model", "o modelo"),
        ("the most for one request", "o máximo por pedido"),
        ("planner: dit on cuda:0 with 4.0 GiB", "planejador: dit em cuda:0 com 4.0 GiB"),
        ("tier 1 (up to 4 GB)", "faixa 1 (até 4 GB)"),
        ("ACESTEP_MAX_DURATION", "ACESTEP_MAX_DURATION"),
    ],
)
def test_what_the_services_say_is_put_into_portuguese(said: str, meant: str) -> None:
    assert TEXTS["pt"].translated(said) == meant
    assert TEXTS["en"].translated(said) == said
