from __future__ import annotations

from dataclasses import replace

import pytest

from services.gateway.page.song_form import (
    COVER,
    CUSTOM,
    FIELDS,
    LEFT_TO_THE_MODEL,
    REPAINT,
    SongForm,
    restored,
)
from services.gateway.page.texts import TEXTS

FORM = SongForm(
    mode=CUSTOM,
    caption="piano",
    lyrics="la",
    is_instrumental=False,
    source="/tmp/a.wav",
    start_s=2,
    end_s=5,
    cover_strength=0.5,
    vocal_language="pt",
    bpm=None,
    key_scale="",
    time_signature="",
    duration_s=30,
    seed=7,
    take_count=2,
    step_count=0,
    guidance_scale=0,
    shift=0,
    infer_method="ode",
    audio_format="flac",
    title=" Song ",
)
COMMON = {"lyrics": "la", "language": "pt", "seed": 7, "batch_size": 2, "infer_method": "ode"}


def test_what_was_not_chosen_is_left_to_the_model() -> None:
    order = FORM.order(None)
    assert order.options == COMMON | {"task": "text2music", "duration_s": 30.0}
    assert (order.caption, order.title, order.audio_format) == ("piano", "Song", "flac")


def test_each_mode_sends_its_own_fields_alone() -> None:
    cover = replace(FORM, mode=COVER).order("a1").options
    assert cover == COMMON | {"task": "cover", "source_id": "a1", "audio_cover_strength": 0.5}
    repaint = replace(FORM, mode=REPAINT).order("a1").options
    window = {"repaint_start_s": 2, "repaint_end_s": 5}
    assert repaint == COMMON | {"task": "repaint", "source_id": "a1"} | window


def test_an_instrumental_has_no_lyrics_and_an_empty_seed_draws_one() -> None:
    options = replace(FORM, is_instrumental=True, seed=None).order(None).options
    assert "lyrics" not in options
    assert options["seed"] == -1


def test_settings_come_back_into_the_fields() -> None:
    settings = {
        "task": "cover", "caption": "jazz", "lyrics": "", "language": "en", "duration_s": 12.0, "bpm": None,
        "seed": 9, "batch_size": 1, "guidance_scale": 1.0, "audio_cover_strength": 0.3, "source_id": "a1",
        "model": {"is_turbo": True}, "title": "Jazz",
    }  # fmt: skip
    values = restored(settings)
    assert values == {
        "mode": "cover", "caption": "jazz", "lyrics": "", "vocal_language": "en", "duration_s": 12.0,
        "seed": 9, "take_count": 1, "guidance_scale": 0, "cover_strength": 0.3, "is_instrumental": True,
        "title": "Jazz", "bpm": None, "key_scale": "", "time_signature": "",
    }  # fmt: skip
    assert values.keys() <= set(FIELDS)


@pytest.mark.parametrize("settings", [{}, {"task": "lego"}, {"odd": 1, "model": None}])
def test_settings_of_other_tasks_change_no_mode(settings: dict[str, object]) -> None:
    assert restored(settings) == LEFT_TO_THE_MODEL | {"is_instrumental": True}


def test_both_languages_fill_in_the_same() -> None:
    english, portuguese = TEXTS["en"], TEXTS["pt"]
    for name in english.__dataclass_fields__:
        fields = [set(_fields(getattr(texts, name))) for texts in (english, portuguese)]
        assert fields[0] == fields[1], name


def _fields(text: str) -> list[str]:
    from string import Formatter

    return [field for _, field, _, _ in Formatter().parse(text) if field]
