from __future__ import annotations

from dataclasses import replace

import pytest

from acestage.errors import InvalidArgumentError
from acestage.generation_options import Adapter
from services.gateway.page.song_form import (
    COMPLETE,
    COVER,
    CUSTOM,
    EXTRACT,
    LEGO,
    REPAINT,
    SongForm,
)

FORM = SongForm(
    mode=CUSTOM,
    caption="piano",
    lyrics="la",
    is_instrumental=False,
    source="/tmp/a.wav",
    start_s=2,
    end_s=5,
    cover_strength=0.5,
    track_name="drums",
    track_classes=["bass"],
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
    reference=None,
    model="",
    timesteps="",
    adapters="",
    edge_fade_ms=None,
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
    extract = replace(FORM, mode=EXTRACT).order("a1").options
    assert extract == COMMON | {"task": "extract", "source_id": "a1", "track_name": "drums"}
    lego = replace(FORM, mode=LEGO).order("a1").options
    assert lego == COMMON | {"task": "lego", "source_id": "a1", "track_name": "drums"} | window
    complete = replace(FORM, mode=COMPLETE).order("a1").options
    assert complete == COMMON | {"task": "complete", "source_id": "a1", "track_classes": ["bass"]}


def test_a_window_without_ends_is_the_whole_source() -> None:
    options = replace(FORM, mode=REPAINT, start_s=None, end_s=0.0).order("a1").options
    assert "repaint_start_s" not in options
    assert options["repaint_end_s"] == 0.0


def test_lists_are_read_from_their_text() -> None:
    form = replace(FORM, timesteps=" 1, .5,0.25 ", adapters="drums:0.8, warm, a:b:-1", model="base")
    order = replace(form, edge_fade_ms=20).order(None, "a2")
    assert order.options["timesteps"] == [1.0, 0.5, 0.25]
    assert order.options["adapters"] == [Adapter("drums", 0.8), Adapter("warm"), Adapter("a:b", -1.0)]
    assert (order.options["model"], order.options["reference_id"]) == ("base", "a2")
    assert order.edge_fade_ms == 20.0


@pytest.mark.parametrize(
    ("field", "text"), [("timesteps", "1, half"), ("adapters", "drums:much"), ("adapters", "drums:")]
)
def test_a_list_that_cannot_be_read_is_named(field: str, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        replace(FORM, **{field: text}).order()
    (violation,) = caught.value.violations
    assert (violation.field, text in violation.description) == (field, True)


def test_an_instrumental_has_no_lyrics_and_an_empty_seed_draws_one() -> None:
    options = replace(FORM, is_instrumental=True, seed=None).order(None).options
    assert "lyrics" not in options
    assert options["seed"] == -1
