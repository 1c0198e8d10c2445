from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from acestage.errors import InvalidArgumentError
from services.gateway.jobs.order import JobOrder
from services.gateway.page.restoring import LEFT_OUT, Served, ordered, restored
from services.gateway.page.song_form import FIELDS, LEGO, MODES, RANGES, TRACK_MODES
from tests.unit.gateway.page.test_song_form import FORM

TURBO = Served()
BASE = Served(MODES + TRACK_MODES)


def test_settings_come_back_into_the_fields() -> None:
    settings = {
        "task": "cover", "caption": "jazz", "lyrics": "", "language": "en", "duration_s": 12.0, "bpm": None,
        "seed": 9, "batch_size": 1, "guidance_scale": 1.0, "audio_cover_strength": 0.3, "source_id": "a1",
        "model": {"is_turbo": True, "name": "turbo"}, "title": "Jazz", "timesteps": [], "adapters": [],
        "track_name": "", "track_classes": [], "repaint_start_s": None, "step_count": 8,
    }  # fmt: skip
    values = restored(settings, TURBO).values
    assert values == LEFT_OUT | {
        "mode": "cover", "caption": "jazz", "lyrics": "", "vocal_language": "en", "duration_s": 12.0,
        "seed": 9, "take_count": 1, "guidance_scale": 0, "cover_strength": 0.3, "is_instrumental": True,
        "title": "Jazz", "model": "turbo", "step_count": 8,
    }  # fmt: skip
    assert values.keys() <= set(FIELDS)


def test_every_choice_that_the_page_can_order_comes_back() -> None:
    form = replace(
        FORM,
        mode=LEGO,
        bpm=90,
        key_scale="F# minor",
        time_signature="3",
        model="base",
        shift=0,
        guidance_scale=4.0,
        timesteps="1, 0.9545454545454546, 0.50000012, 0.5, 1e-07",
        adapters="drums:0.12345678, warm:1",
        infer_method="sde",
        take_count=1,
        title="Song",
    )
    order = form.order("a1")
    # As the settings of a take have it: with the caption, and with the model as what it is.
    settings = {**JobOrder.to_dict(order)["options"], "caption": "piano", "title": order.title}
    settings |= {"model": {"name": "base", "is_turbo": False}, "duration_s": 30.0}
    values = restored(settings, BASE).values
    same = set(FIELDS) - {"source", "reference", "audio_format", "edge_fade_ms", "track_classes"}
    assert {name: values[name] for name in same & values.keys()} == {
        name: getattr(form, name) for name in same & values.keys()
    }
    assert same - values.keys() == {"cover_strength"}


@pytest.mark.parametrize("settings", [{}, {"model": None}])
def test_settings_that_say_nothing_change_no_mode(settings: dict[str, object]) -> None:
    back = restored(settings, TURBO)
    assert back.values == LEFT_OUT | {"is_instrumental": True}
    assert (back.impossible, back.fieldless, back.to_choose) == ({}, [], [])


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("task", "mode", "lego"),
        ("task", "mode", "cover-nofsq"),
        ("infer_method", "infer_method", "foo"),
        ("batch_size", "take_count", 50),
        ("batch_size", "take_count", 1.5),
        ("duration_s", "duration_s", 4000),
        ("duration_s", "duration_s", float("inf")),
        ("duration_s", "duration_s", 5),
        ("seed", "seed", 2**70),
        ("seed", "seed", 2**53),
        ("bpm", "bpm", 10**30),
        ("step_count", "step_count", 201),
        ("guidance_scale", "guidance_scale", -1),
        ("shift", "shift", 11.0),
        ("track_name", "track_name", "kazoo"),
        ("track_classes", "track_classes", ["drums", "kazoo"]),
        ("repaint_start_s", "start_s", 1e300),
    ],
)
def test_what_a_field_cannot_have_is_left_out_and_named(option: str, field: str, value: Any) -> None:
    is_of_tracks = field in ("track_name", "track_classes", "start_s")
    task = {"track_name": "lego", "track_classes": "complete", "start_s": "lego"}.get(field, "text2music")
    back = restored({"task": task, "caption": "jazz", option: value}, BASE if is_of_tracks else TURBO)
    assert back.impossible == {field: value}
    assert field not in back.values
    assert back.values["caption"] == "jazz"


def test_numbers_beyond_all_others_come_back_as_they_are() -> None:
    huge = 10**400
    values = restored({"timesteps": [huge], "adapters": [{"name": "x", "scale": huge}]}, TURBO).values
    assert (values["timesteps"], values["adapters"]) == (str(huge), f"x:{huge}")


def test_what_the_mode_does_not_use_is_not_missed() -> None:
    assert restored({"task": "cover", "duration_s": 4000.0}, TURBO).impossible == {}


def test_guidance_that_a_turbo_model_leaves_out_is_not_missed() -> None:
    back = restored({"guidance_scale": 99, "model": {"name": "turbo", "is_turbo": True}}, TURBO)
    assert (back.impossible, back.values["guidance_scale"]) == ({}, 0)


def test_what_a_machine_allows_bounds_the_fields() -> None:
    served = Served(ranges=RANGES | {"duration_s": (10, 30), "take_count": (1, 1)})
    back = restored({"duration_s": 60.0, "batch_size": 2, "seed": 2**53 - 1}, served)
    assert back.impossible == {"duration_s": 60.0, "take_count": 2}
    assert back.values["seed"] == 2**53 - 1


def test_settings_without_a_field_are_named_unless_they_change_nothing() -> None:
    settings = {"caption": "a", "instruction": "Sing", "cfg_interval_start": 0.2, "cfg_interval_end": 1.0}
    settings |= {"audio_codes": "", "cover_noise_strength": 0.0, "kernels": "eager", "inference_steps": 8}
    settings |= {"clamp": True, "preview": True}
    back = restored(settings | {"seeds": [1, 5]}, TURBO)
    assert back.fieldless == ["cfg_interval_start", "instruction", "seeds", "inference_steps"]


def test_files_have_to_be_chosen_again() -> None:
    back = restored({"task": "cover", "reference_id": "a2"}, TURBO)
    assert back.to_choose == ["source", "reference"]
    assert (back.values["source"], back.values["reference"]) == (None, None)
    assert restored({"task": "text2music", "source_id": "", "reference_id": ""}, TURBO).to_choose == []


def test_the_order_of_a_song_that_failed_comes_back() -> None:
    form = replace(
        FORM, bpm=90, adapters="drums:0.8", timesteps="1, 0.5", model="turbo", is_instrumental=True
    )
    read = JobOrder.from_dict(json.loads(json.dumps(form.order(None, "a2").to_dict())))
    back = restored(ordered(read), TURBO)
    same = set(FIELDS) & back.values.keys() - {"lyrics", "source", "reference", "track_name", "track_classes"}
    same -= {"start_s", "end_s", "cover_strength"}
    assert {name: back.values[name] for name in same} == {
        name: getattr(form, name) for name in same - {"title"}
    } | {"title": "Song"}
    assert (back.to_choose, back.impossible, back.fieldless) == (["reference"], {}, [])


def test_seeds_of_an_order_are_one_and_a_count_where_they_can_be() -> None:
    back = restored(ordered(JobOrder("a", {"seeds": (5, 6, 7)})), TURBO)
    assert (back.values["seed"], back.values["take_count"], back.fieldless) == (5, 3, [])
    assert restored(ordered(JobOrder("a", {"seeds": (5, 9)})), TURBO).fieldless == ["seeds"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "turbo"),
        ("timesteps", "1, 0.5"),
        ("timesteps", [None]),
        ("adapters", ["drums"]),
        ("adapters", 5),
        ("track_classes", [1]),
        ("caption", 5),
        ("seed", "7"),
        ("seed", True),
    ],
)
def test_settings_of_another_kind_are_named(field: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field}: is .* accepted: settings of a song made here"):
        restored({"caption": "jazz", field: value}, TURBO)
