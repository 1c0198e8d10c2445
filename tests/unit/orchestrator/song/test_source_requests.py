"""What a request may say of its task, source, window, codes and tracks, and what it then means."""

from __future__ import annotations

from typing import Any

import pytest

from acestage.errors import InvalidArgumentError
from acestage.generation_options import TRACK_NAMES
from acestage.limits import Limit, Limits
from acestage.protos.dit.v1.dit_pb2 import Adapter
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.limits.limits import MOST_ITEMS
from services.orchestrator.song import requests
from services.orchestrator.song.tasks import TASKS
from services.orchestrator.song.timeline import Span

_FACTS: dict[str, Any] = {
    "latent_frame_rate_hz": 25,
    "sample_rate_hz": 48_000,
    "hop_sample_count": 1920,
    "audio_code_count": 64_000,
    "frames_per_audio_code": 5,
}
TURBO = Model(name="turbo", is_turbo=True, **_FACTS)
BASE = Model(name="base", knows_tracks=True, **_FACTS)
SOURCE_S = 20
SOURCE_SAMPLES = SOURCE_S * 48_000
CODE = "<|audio_code_7|>"


def violations(fields: dict[str, Any], model: Model | None = BASE, limits: Limits | None = None) -> list[str]:
    """The fields that are refused."""
    request = GenerateRequest(**{"caption": "x"} | fields)
    known = {} if limits is None else {"limits": limits}
    try:
        requests.check(request, **known, model=model, source_sample_count=SOURCE_SAMPLES)
    except InvalidArgumentError as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("task", {"task": "karaoke"}),
        ("task", {"task": "Cover", "source_id": "a"}),
        ("source_id", {"task": "repaint"}),
        ("source_id", {"task": "cover"}),
        ("source_id", {"task": "cover-nofsq"}),
        ("source_id", {"task": "lego"}),
        ("source_id", {"source_id": "a"}),
        ("source_id", {"task": "text2music", "source_id": "a"}),
        ("duration_s", {"task": "cover", "source_id": "a", "duration_s": 20}),
        ("duration_s", {"audio_codes": CODE * 50, "duration_s": 10}),
        ("audio_codes", {"task": "cover", "source_id": "a", "audio_codes": CODE * 5}),
        ("audio_codes", {"task": "repaint", "source_id": "a", "audio_codes": CODE * 5}),
        ("audio_codes", {"audio_codes": "7, 8, 9"}),
        ("audio_codes", {"audio_codes": CODE * 4}),
        ("audio_codes", {"audio_codes": CODE + "x" + CODE}),
        ("audio_codes", {"audio_codes": "<|audio_code_-1|>"}),
        ("audio_codes", {"audio_codes": "<|audio_code_99999999999999|>"}),
        ("audio_codes[4]", {"audio_codes": CODE * 4 + "<|audio_code_64000|>"}),
        ("audio_codes", {"audio_codes": CODE * 3001}),
        ("audio_cover_strength", {"task": "cover", "source_id": "a", "audio_cover_strength": 1.01}),
        ("audio_cover_strength", {"task": "cover", "source_id": "a", "audio_cover_strength": float("nan")}),
        ("audio_cover_strength", {"audio_cover_strength": 0.5}),
        ("cover_noise_strength", {"task": "cover", "source_id": "a", "cover_noise_strength": -0.1}),
        ("cover_noise_strength", {"task": "repaint", "source_id": "a", "cover_noise_strength": 0.1}),
        ("cover_noise_strength", {"audio_codes": CODE * 5, "cover_noise_strength": 0.1}),
        ("repaint_start_s", {"repaint_start_s": 1}),
        ("repaint_end_s", {"task": "cover", "source_id": "a", "repaint_end_s": 1}),
        ("repaint_start_s", {"task": "repaint", "source_id": "a", "repaint_start_s": float("nan")}),
        ("repaint_end_s", {"task": "repaint", "source_id": "a", "repaint_end_s": float("inf")}),
        ("repaint_start_s", {"task": "repaint", "source_id": "a", "repaint_start_s": 5, "repaint_end_s": 5}),
        ("repaint_start_s", {"task": "repaint", "source_id": "a", "repaint_start_s": 9, "repaint_end_s": 5}),
        ("repaint_start_s", {"task": "repaint", "source_id": "a", "repaint_start_s": 20}),
        (
            "repaint_end_s",
            {"task": "repaint", "source_id": "a", "repaint_start_s": -1e-9, "repaint_end_s": 1e-9},
        ),
        ("repaint_end_s", {"task": "repaint", "source_id": "a", "repaint_end_s": 0}),
        ("repaint_end_s", {"task": "lego", "source_id": "a", "repaint_end_s": 0}),
        ("audio_codes", {"audio_codes": "<" * 500_001}),
        (
            "repaint_start_s",
            {"task": "repaint", "source_id": "a", "repaint_start_s": 21, "repaint_end_s": 25},
        ),
        ("repaint_end_s", {"task": "repaint", "source_id": "a", "repaint_start_s": -5, "repaint_end_s": -1}),
        ("source_id", {"task": "repaint", "source_id": "a", "repaint_end_s": 601}),
        ("source_id", {"task": "repaint", "source_id": "a", "repaint_start_s": -3600}),
        ("repaint_start_s", {"task": "repaint", "source_id": "a", "repaint_start_s": -1e300}),
        ("repaint_start_s", {"task": "lego", "source_id": "a", "repaint_start_s": -1}),
        ("repaint_end_s", {"task": "lego", "source_id": "a", "repaint_end_s": 21}),
        ("track_name", {"track_name": "vocals"}),
        ("track_name", {"task": "extract", "source_id": "a", "track_name": "kazoo"}),
        ("track_classes", {"task": "lego", "source_id": "a", "track_classes": ["vocals"]}),
        ("track_classes[1]", {"task": "complete", "source_id": "a", "track_classes": ["bass", "x"]}),
        ("track_classes[1]", {"task": "complete", "source_id": "a", "track_classes": ["bass", "bass"]}),
        ("infer_method", {"infer_method": "heun"}),
        ("seed", {"seed": 1, "seeds": [1, 2]}),
        ("batch_size", {"batch_size": 2, "seeds": [1, 2]}),
        ("seeds", {"seeds": list(range(9))}),
        ("seeds[1]", {"seeds": [1, -1]}),
        ("adapters", {"adapters": [Adapter(name=str(index)) for index in range(5)]}),
        ("adapters[1].name", {"adapters": [Adapter(name="a"), Adapter()]}),
        ("adapters[0].scale", {"adapters": [Adapter(name="a", scale=float("nan"))]}),
        ("adapters[0].scale", {"adapters": [Adapter(name="a", scale=5)]}),
    ],
)
def test_what_does_not_go_together_is_refused_and_named(field: str, fields: dict[str, Any]) -> None:
    assert violations(fields) == [field]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"repaint_start_s": 12.01619, "repaint_end_s": 20}, "up to 12.0161875, where the source ends"),
        ({"repaint_start_s": 12.01619}, "less than 12.0161875, where the source ends"),
        ({"repaint_start_s": 3600.0001}, "-3600 to 3600 s"),
        ({"repaint_start_s": 5.0000002, "repaint_end_s": 5.0000001}, "less than repaint_end_s, 5.0000001"),
        ({"task": "lego", "repaint_start_s": 13}, "0 or more, less than 12.0161875, where the source ends"),
        ({"task": "lego", "repaint_end_s": 13}, "0 to 12.0161875, the source"),
    ],
)
def test_a_bound_is_told_as_exactly_as_it_is_checked(fields: dict[str, Any], expected: str) -> None:
    request = GenerateRequest(**{"caption": "x", "task": "repaint", "source_id": "a"} | fields)
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(request, model=BASE, source_sample_count=576_777)
    given = fields.get("repaint_start_s", fields.get("repaint_end_s"))
    assert [v.description for v in caught.value.violations] == [f"is {given}; accepted: {expected}"]


def test_the_length_of_a_song_and_its_limit_are_told_as_exactly() -> None:
    limits = Limits(Limit(12.0161874, "a small card"), MOST_ITEMS, (), "", 0, "", "planner")
    cover = GenerateRequest(caption="x", task="cover", source_id="a")
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(cover, limits, model=BASE, source_sample_count=576_777)
    assert caught.value.message == (
        "source_id: makes a song of 12.0161875 s; accepted: up to 12.0161874 (a small card)"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"audio_cover_strength": 1.0, "cover_noise_strength": 0.0},  # as clients send them with every task
        {"audio_codes": f" {CODE}\n{CODE * 4} "},
        {"task": "cover", "audio_codes": CODE * 5, "audio_cover_strength": 0.3},
        {"task": "cover", "source_id": "a", "cover_noise_strength": 1.0},
        {"task": "cover-nofsq", "source_id": "a", "audio_cover_strength": 0.0},
        {"task": "repaint", "source_id": "a"},
        {"task": "repaint", "source_id": "a", "repaint_start_s": -10, "repaint_end_s": 30},
        {"task": "repaint", "source_id": "a", "repaint_start_s": 20, "repaint_end_s": 30},
        {"task": "repaint", "source_id": "a", "repaint_start_s": -10, "repaint_end_s": 0},
        {"task": "lego", "source_id": "a", "track_name": "drums", "repaint_start_s": 3},
        {"task": "complete", "source_id": "a", "track_classes": list(TRACK_NAMES)},
        {"seeds": [5, 5, 0]},
        {"adapters": [Adapter(name="a", scale=-1), Adapter(name="b")]},
    ],
)
def test_what_goes_together_is_accepted(fields: dict[str, Any]) -> None:
    assert violations(fields) == []


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("track_classes", {"task": "complete", "source_id": "a", "track_classes": ["x" * 40] * 50_000}),
        ("seeds", {"seeds": [-1] * 500_000}),
        ("adapters", {"adapters": [Adapter()] * 100_000}),
    ],
)
def test_no_more_is_looked_at_than_could_be_accepted(field: str, fields: dict[str, Any]) -> None:
    """The loop that checks requests also renews leases."""
    assert violations(fields)[0] == field
    assert len(violations(fields)) <= 1 + 2 * len(TRACK_NAMES)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.needs_tracks_model])
def test_single_tracks_need_a_base_model(task: str) -> None:
    fields = {"task": task, "source_id": "a"}
    assert violations(fields, BASE) == []
    assert violations(fields, TURBO) == ["task"]


def test_codes_need_an_audio_tokenizer() -> None:
    model = Model(name="m", latent_frame_rate_hz=25, sample_rate_hz=48_000, hop_sample_count=1920)
    assert violations({"audio_codes": CODE}, model) == ["audio_codes"]


def test_without_a_known_model_only_the_rest_is_checked() -> None:
    assert violations({"task": "extract", "source_id": "a"}, None) == []
    assert violations({"task": "extract"}, None) == ["source_id"]


def test_a_song_longer_than_the_limit_is_refused_wherever_its_length_comes_from() -> None:
    limits = Limits(Limit(19, "a small card"), MOST_ITEMS, (), "", 0, "", "planner")
    assert violations({"task": "cover", "source_id": "a"}, limits=limits) == ["source_id"]
    assert violations({"audio_codes": CODE * 100}, limits=limits) == ["audio_codes"]
    assert violations({"audio_codes": CODE * 95}, limits=limits) == []


def test_the_source_sets_the_length() -> None:
    request = GenerateRequest(caption="x", task="cover", source_id="a")
    settings = requests.resolve(request, BASE, source_sample_count=SOURCE_SAMPLES + 1)
    assert settings.duration_s == SOURCE_S + 1 / 48_000
    assert settings.frame_count(BASE) == SOURCE_S * 25 + 1
    assert settings.goes_through_codes
    assert settings.window_frames is None


def test_codes_set_the_length_and_make_a_cover() -> None:
    settings = requests.resolve(GenerateRequest(caption="x", audio_codes=CODE * 60), BASE)
    assert (settings.task, settings.duration_s, settings.frame_count(BASE)) == ("cover", 12.0, 300)
    assert settings.codes == (7,) * 60
    assert settings.instruction == "Generate audio semantic tokens based on the given conditions:"
    assert not settings.goes_through_codes


def test_a_window_for_a_track_leaves_all_of_the_song_new() -> None:
    request = GenerateRequest(caption="x", task="lego", source_id="a", repaint_start_s=4, repaint_end_s=8)
    settings = requests.resolve(request, BASE, source_sample_count=SOURCE_SAMPLES)
    assert settings.timeline is not None
    assert settings.window_frames == Span(100, 200)
    assert settings.timeline.window == Span(0, SOURCE_SAMPLES)
    assert not settings.keeps_source


@pytest.mark.parametrize(
    ("fields", "instruction"),
    [
        ({}, "Fill the audio semantic mask based on the given conditions:"),
        ({"task": "repaint"}, "Repaint the mask area based on the given conditions:"),
        ({"task": "extract"}, "Extract the track from the audio:"),
        ({"task": "extract", "track_name": "vocals"}, "Extract the VOCALS track from the audio:"),
        ({"task": "lego", "track_name": "fx"}, "Generate the FX track based on the audio context:"),
        ({"task": "complete"}, "Complete the input track:"),
        (
            {"task": "complete", "track_classes": ["bass", "drums"]},
            "Complete the input track with BASS | DRUMS:",
        ),
        ({"task": "extract", "track_name": "vocals", "instruction": "Sing:"}, "Sing:"),
    ],
)
def test_a_task_has_its_instruction(fields: dict[str, Any], instruction: str) -> None:
    settings = requests.resolve(GenerateRequest(caption="x", **fields), BASE)
    assert settings.instruction == instruction


def test_seeds_of_one_s_own() -> None:
    settings = requests.resolve(GenerateRequest(caption="x", seeds=[9, 3]), BASE)
    assert settings.seeds == (9, 3)
    assert requests.item_count(GenerateRequest(seeds=[9, 3, 4])) == 3


def test_seeds_beyond_the_limit_are_dropped_where_the_request_allows_it() -> None:
    limits = Limits(Limit(600, "m"), Limit(2, "a small card"), (), "", 0, "", "planner")
    lowered, clamped = requests.lower(GenerateRequest(caption="x", seeds=[1, 2, 3], clamp=True), limits)
    assert list(lowered.seeds) == [1, 2]
    assert [(entry.field, entry.requested) for entry in clamped] == [("seeds", 3)]
