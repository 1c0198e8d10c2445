"""Orders from requests, under every name and content type that clients use."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from acestage.generation import JobQueued
from acestage.generation_options import Model
from services.gateway.gateway import UPLOAD_TIMEOUT_S
from services.gateway.jobs.order import JobOrder
from services.gateway.rest.orders.example_songs import SAMPLES
from services.gateway.rest.orders.field_names import METAS
from tests.unit.gateway.rest.rest_door import Door, through_door
from tests.unit.gateway.scripted_orchestrator import (
    DAMAGED,
    SHORTENED,
    ScriptedOrchestrator,
    generation,
    samples,
)

UPLOADED = "a" + "0" * 32
PROMPT = {"prompt": "x"}


def order(
    tmp_path: Path, secret: str | None = None, **request: Any
) -> tuple[int, dict[str, Any], ScriptedOrchestrator]:
    """The status and the body of the answer to `/release_task`, and what the orchestrator heard."""
    client = ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()])

    async def ask(door: Door) -> httpx.Response:
        return await door.http.post("/release_task", **request)

    answer = through_door(Path(tempfile.mkdtemp(dir=tmp_path)), client, ask, secret)
    return answer.status_code, answer.json(), client


def options(tmp_path: Path, **request: Any) -> dict[str, Any]:
    status, body, client = order(tmp_path, **request)
    assert status == 200, body
    ((caption, found),) = client.started
    return {"caption": caption} | found


def noted(tmp_path: Path, path: str = "/release_task", **request: Any) -> tuple[dict[str, Any], list[str]]:
    """The options, the caption among them, and the notes of the order that a request makes."""

    async def ask(door: Door) -> JobOrder:
        answer = await door.http.post(path, **request)
        assert answer.status_code in (200, 201), answer.text
        return door.gateway.book.find("abc").record.order

    client = ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()])
    found: JobOrder = through_door(Path(tempfile.mkdtemp(dir=tmp_path)), client, ask)
    return {"caption": found.caption, **found.options}, list(found.notes)


@pytest.mark.parametrize("path", ["/v1/jobs", "/release_task"])
@pytest.mark.parametrize(
    ("name", "value", "option", "expected"),
    [
        ("prompt", "jazz", "caption", "jazz"),
        ("caption", "jazz", "caption", "jazz"),
        ("description", "jazz", "caption", "jazz"),
        ("desc", "jazz", "caption", "jazz"),
        ("sampleQuery", "jazz", "caption", "jazz"),
        ("model", "m", "model", "m"),
        ("model_name", "m", "model", "m"),
        ("ditModel", "m", "model", "m"),
        ("keyscale", "C Major", "key_scale", "C major"),
        ("key", "Am", "key_scale", "A minor"),
        ("keyScale", "F# minor", "key_scale", "F# minor"),
        ("timesignature", "4/4", "time_signature", "4"),
        ("timeSignature", "6/8", "time_signature", "6"),
        ("time_signature", 3, "time_signature", "3"),
        ("duration", "30", "duration_s", 30.0),
        ("targetDuration", 30, "duration_s", 30.0),
        ("audioDuration", 30, "duration_s", 30.0),
        ("language", "pt", "language", "pt"),
        ("vocalLanguage", "pt", "language", "pt"),
        ("inferenceSteps", "20", "step_count", 20),
        ("guidance_scale", "5.5", "guidance_scale", 5.5),
        ("bpm", "120.0", "bpm", 120),
        ("taskType", "cover-nofsq", "task", "cover-nofsq"),
        ("ref_audio_path", UPLOADED, "reference_id", UPLOADED),
        ("ctxAudioPath", f"/v1/uploads/{UPLOADED}", "source_id", UPLOADED),
        ("timesteps", "0.9,0.5,0", "timesteps", [0.9, 0.5, 0.0]),
        ("timesteps", [0.9, 0.5], "timesteps", [0.9, 0.5]),
        ("trackClasses", "drums, bass", "track_classes", ["drums", "bass"]),
        ("seed", "5", "seed", 5),
        ("batchSize", "2", "batch_size", 2),
        ("audio_code_string", ["<|audio_code_1|>"], "audio_codes", "<|audio_code_1|>"),
        ("clamp", "yes", "clamp", True),
    ],
)
def test_a_field_is_found_by_each_of_its_names(
    tmp_path: Path, path: str, name: str, value: Any, option: str, expected: Any
) -> None:
    body = {name: value} if option == "caption" else {"prompt": "x", name: value}
    if option == "track_classes":
        body["task_type"] = "complete"
    found, _ = noted(tmp_path, path, json=body)
    assert found[option] == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"lyrics": "la", "audio_duration": 30.5, "seed": 7, "bpm": 90, "key": "Am", "vocal_language": "pt"},
        {"seed": "5,3", "inference_steps": 12, "shift": 2.0, "infer_method": "sde", "cfg_interval_end": 0.5},
        {"timesteps": [0.9, 0.5], "adapters": "voice:0.5", "quantization": "int8", "time_signature": "3"},
        {"task_type": "repaint", "src_audio_path": UPLOADED, "repainting_start": 1.5, "repainting_end": 4},
        {"task_type": "cover", "src_audio_path": UPLOADED, "reference_audio_path": UPLOADED, "title": "Água"},
        {"task_type": "complete", "src_audio_path": UPLOADED, "track_classes": ["drums"], "model": "tiny"},
        {"task_type": "cover", "audio_code_string": "<|audio_code_1|>", "cover_strength": 0.5},
    ],
)
def test_the_settings_of_a_song_order_it_again(tmp_path: Path, fields: dict[str, Any]) -> None:
    def ordered(body: dict[str, Any]) -> JobOrder:
        async def ask(door: Door) -> JobOrder:
            answer = await door.http.post("/v1/jobs", json=body)
            assert answer.status_code == 201, answer.text
            return door.gateway.book.find("abc").record.order

        client = ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()])
        found: JobOrder = through_door(Path(tempfile.mkdtemp(dir=tmp_path)), client, ask)
        return found

    def settings(order: JobOrder) -> dict[str, Any]:
        options: dict[str, Any] = dict(order.options)
        model = Model(options.pop("model", "tiny-base"), False, True)
        made = replace(
            generation("abc", [samples(1)]).settings, caption=order.caption, model=model, **options
        )
        seeds = tuple(options.get("seeds", [made.seed]))
        made = replace(made, seed=seeds[0], seeds=seeds, batch_size=len(seeds))
        return json.loads(json.dumps(made.to_dict())) | {"title": order.title}  # type: ignore[no-any-return]

    first = ordered({"prompt": "x", "seed": 7} | fields)
    again = ordered(settings(first))
    assert (again.caption, again.title) == (first.caption, first.title)
    assert again.options.items() >= first.options.items()
    has_source = bool(first.options.keys() & {"source_id", "audio_codes"})
    length = ("audio_duration was left out: the song is as long as its source",)
    assert again.notes == (length if has_source else ())
    assert ordered(settings(again)) == again


@pytest.mark.parametrize("model", [{}, {"name": 3}, ["tiny"]])
def test_a_model_is_a_name(tmp_path: Path, model: Any) -> None:
    status, body, _ = order(tmp_path, json={"prompt": "x", "model": model})
    assert (status, list(body["fields"])) == (400, ["model"])


def test_what_was_not_sent_is_left_to_the_model(tmp_path: Path) -> None:
    assert options(tmp_path, json={"prompt": "x"}).keys() == {"caption", "detached"}


def test_defaults_that_clients_send_with_every_task_are_not_sent_on(tmp_path: Path) -> None:
    routine = {
        "audio_duration": -1,
        "bpm": 0,
        "key_scale": "",
        "time_signature": "N/A",
        "seed": -1,
        "use_random_seed": True,
        "audio_cover_strength": 1.0,
        "cover_noise_strength": 0,
        "repainting_start": 0,
        "repainting_end": -1,
        "task_type": "text2music",
    }
    found = options(tmp_path, json={"prompt": "x"} | routine)
    assert found == {"caption": "x", "detached": True, "task": "text2music"}


@pytest.mark.parametrize("batch_size", [{}, {"batch_size": 2}])
@pytest.mark.parametrize("seeds", ["-1,-1", [-1, -1]])
def test_a_seed_for_each_take_may_be_drawn(tmp_path: Path, seeds: Any, batch_size: dict[str, int]) -> None:
    found = options(tmp_path, json={"prompt": "x", "seed": seeds} | batch_size)
    assert found == {"caption": "x", "detached": True, "batch_size": 2}


SLIDERS = {
    "audio_cover_strength": 0.5,
    "cover_noise_strength": 0.2,
    "repainting_start": 3,
    "repaintingEnd": 0,
    "track_name": "drums",
    "instruments": ["bass"],
}


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        ({}, set()),
        ({"task_type": "text2music"}, set()),
        ({"task_type": "text2music", "audio_code_string": "<|audio_code_1|>"}, {"audio_cover_strength"}),
        (
            {"task_type": "cover", "src_audio_path": UPLOADED},
            {"audio_cover_strength", "cover_noise_strength"},
        ),
        ({"task_type": "repaint", "src_audio_path": UPLOADED}, {"repaint_start_s", "repaint_end_s"}),
        (
            {"task_type": "lego", "src_audio_path": UPLOADED},
            {"repaint_start_s", "repaint_end_s", "track_name"},
        ),
        ({"task_type": "complete", "src_audio_path": UPLOADED}, {"track_classes"}),
    ],
)
def test_a_task_of_upstream_s_leaves_out_what_belongs_to_others(
    tmp_path: Path, task: dict[str, Any], kept: set[str]
) -> None:
    options, notes = noted(tmp_path, json=PROMPT | SLIDERS | task)
    of_tasks = {
        *("audio_cover_strength", "cover_noise_strength", "repaint_start_s", "repaint_end_s"),
        *("track_name", "track_classes"),
    }
    assert options.keys() & of_tasks == kept
    (note,) = notes
    assert note.startswith("of other tasks, so without effect: ")
    assert len(note.split(", ")) == 1 + 6 - len(kept)
    assert ("repaintingEnd" in note) is ("repaint_end_s" not in kept)


def test_values_without_effect_are_not_worth_a_note(tmp_path: Path) -> None:
    routine = {"audio_cover_strength": 1.0, "cover_noise_strength": 0, "repainting_start": 0}
    codes = {"audio_code_string": "<|audio_code_1|>"}
    assert noted(tmp_path, json=PROMPT | routine)[1] == []
    assert noted(tmp_path, json=PROMPT | routine | codes)[1] == []


def test_a_job_is_refused_what_belongs_to_another_task(tmp_path: Path) -> None:
    options, notes = noted(tmp_path, "/v1/jobs", json=PROMPT | SLIDERS)
    assert (options["audio_cover_strength"], options["repaint_end_s"]) == (0.5, 0.0)  # for others to refuse
    assert notes == []


@pytest.mark.parametrize("name", ["seed", "seeds"])
@pytest.mark.parametrize("seeds", ["7,8,9", [7, 8, 9], "7,8,-1"])
def test_of_more_seeds_than_takes_the_first_ones_count_for_a_task_of_upstream_s(
    tmp_path: Path, name: str, seeds: Any
) -> None:
    options, notes = noted(tmp_path, json=PROMPT | {name: seeds, "batch_size": 2})
    assert (options["seeds"], "batch_size" in options) == ([7, 8], False)
    assert notes == [f"{name}: of 3 seeds the first ones count, one for each take"]


@pytest.mark.parametrize(("seeds", "batch_size"), [("7,8", 3), ("7,8,-1", 3), ("7,8,-1", None)])
def test_seeds_that_are_missing_are_drawn_for_a_task_of_upstream_s(
    tmp_path: Path, seeds: str, batch_size: int | None
) -> None:
    options, notes = noted(tmp_path, json=PROMPT | {"seed": seeds, "batch_size": batch_size})
    assert options["seeds"][:2] == [7, 8]
    assert 0 <= options["seeds"][2] < 2**32
    assert notes == ["seed: seeds were drawn for takes that had none"]


@pytest.mark.parametrize(("seeds", "batch_size"), [("-1,-1,-1", 2), ("-1,-1", 2), ("-1,-1,5", 2)])
def test_seeds_that_are_all_to_be_drawn_are_for_the_orchestrator(
    tmp_path: Path, seeds: str, batch_size: int
) -> None:
    options, _ = noted(tmp_path, json=PROMPT | {"seed": seeds, "batch_size": batch_size})
    assert (options["batch_size"], "seeds" in options) == (2, False)


@pytest.mark.parametrize(
    ("path", "seeds", "batch_size"),
    [
        ("/v1/jobs", "7,8,9", 2),
        ("/v1/jobs", "7,8", 3),
        ("/v1/jobs", "7,-1", 2),
        ("/release_task", "7,8", 10**9),
        ("/release_task", "7,8", -2),
        ("/release_task", "7,8", 0),
    ],
)
def test_seeds_that_do_not_go_with_the_takes_are_refused(
    tmp_path: Path, path: str, seeds: str, batch_size: int
) -> None:
    async def ask(door: Door) -> None:
        body = {"prompt": "x", "seed": seeds, "batch_size": batch_size}
        answer = await door.http.post(path, json=body)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["seed"])

    through_door(tmp_path, ScriptedOrchestrator(), ask)


def test_numbers_that_mean_nothing_are_for_the_orchestrator_to_refuse(tmp_path: Path) -> None:
    found = options(tmp_path, json={"prompt": "x", "bpm": -60, "audio_duration": -7})
    assert (found["bpm"], found["duration_s"]) == (-60, -7.0)


@pytest.mark.parametrize("metas", METAS)
def test_values_are_looked_up_in_the_body_then_in_param_obj_then_in_metas(tmp_path: Path, metas: str) -> None:
    body = {
        "prompt": "x",
        "bpm": 100,
        "param_obj": json.dumps({"bpm": 110, "keyscale": "C major"}),
        metas: {"bpm": 120, "key": "D minor", "duration": 20},
    }
    found = options(tmp_path, json=body)
    assert (found["bpm"], found["key_scale"], found["duration_s"]) == (100, "C major", 20.0)


def test_forms_give_numbers(tmp_path: Path) -> None:
    sent = {"prompt": "x", "inference_steps": "4", "metas": '{"bpm": "90"}'}
    for request in ({"data": sent}, {"data": sent, "files": {"unused": b"1"}}):
        found = options(tmp_path, **request)
        assert (found["step_count"], found["bpm"]) == (4, 90)


def test_files_are_uploaded_and_named_by_their_ids(tmp_path: Path) -> None:
    status, _, client = order(
        tmp_path,
        data={"prompt": "x", "task_type": "cover", "audio_duration": "30", "src_audio_path": "/etc/passwd"},
        files={"ctx_audio": ("a.wav", b"source"), "ref_audio": ("b.wav", b"timbre")},
    )
    assert status == 200
    assert client.uploaded == [b"source", b"timbre"]
    assert client.upload_timeouts_s == [UPLOAD_TIMEOUT_S] * 2
    ((_, found),) = client.started
    assert found["source_id"] == f"a{1:032x}"
    assert found["reference_id"] == f"a{2:032x}"
    assert "duration_s" not in found


@pytest.mark.parametrize(
    ("reference", "odd"), [(b"timbre", ["ctx_audio"]), (DAMAGED, ["ctx_audio", "reference_audio"])]
)
def test_what_is_odd_about_a_file_is_noted_by_the_name_of_its_part(
    tmp_path: Path, reference: bytes, odd: list[str]
) -> None:
    async def ask(door: Door) -> None:
        files = {"ctx_audio": ("a.mp3", DAMAGED), "reference_audio": ("b.wav", reference)}
        await door.http.post("/release_task", data={"prompt": "x", "task_type": "cover"}, files=files)
        job = (await door.http.get("/v1/jobs/abc")).json()
        assert job["notes"] == [f"{name}: {SHORTENED}" for name in odd]

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), ask)


def test_a_file_that_no_field_takes_is_noted(tmp_path: Path) -> None:
    async def ask(door: Door) -> None:
        files = {"foo": ("x.mp3", b"ID3"), "lyrics": ("words.txt", b"la"), "ctxAudio": ("a.wav", b"source")}
        await door.http.post("/release_task", data={"prompt": "x", "task_type": "cover"}, files=files)
        (job,) = door.gateway.book.jobs()
        assert job.record.order.notes == ("not known here, so without effect: the file foo, the file lyrics",)

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), ask)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "A" + "0" * 32, UPLOADED + "/x", "song.wav"])
def test_no_path_of_the_server_is_taken_as_audio(tmp_path: Path, path: str) -> None:
    status, body, client = order(tmp_path, json={"prompt": "x", "task_type": "cover", "src_audio_path": path})
    assert status == 400
    assert list(body["fields"]) == ["src_audio_path"]
    assert not client.started


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bpm", "fast"),
        ("inference_steps", 2.5),
        ("inference_steps", True),
        ("guidance_scale", "nan"),
        ("audio_duration", 10**400),
        ("timesteps", "0.9,x"),
        ("adapters", [{"scale": 1}]),
        ("audio_format", "ogg"),
        ("use_format", "mp3"),
        ("format", "mp3"),
        ("targetDuration", "long"),
        ("use_random_seed", "maybe"),
        ("edge_fade_ms", 1000),
        ("lyrics", ["a"]),
        ("src_audio", "text"),
        ("param_obj", "[1]"),
        ("metas", "{"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(tmp_path: Path, name: str, value: Any) -> None:
    status, body, client = order(tmp_path, json={"prompt": "x", name: value})
    assert status == 400
    assert list(body["fields"]) == [name]
    assert "accepted" in body["detail"]
    assert not client.started


def test_a_bad_value_is_told_once(tmp_path: Path) -> None:
    _, body, _ = order(tmp_path, json={"prompt": "x", "seed": "1,2", "batch_size": "some"})
    assert body["detail"] == "batch_size: is 'some'; accepted: a whole number"


def test_who_means_the_format_of_the_audio_is_told_its_field(tmp_path: Path) -> None:
    _, body, _ = order(tmp_path, json={"prompt": "x", "format": "mp3"})
    accepted = "true or false; the format of the audio is audio_format"
    assert body["fields"] == {"format": f"is 'mp3'; accepted: {accepted}"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"json": [1]}, 400),
        ({"content": "{", "headers": {"content-type": "application/json"}}, 400),
        ({"content": "[" * 100_000, "headers": {"content-type": "application/json"}}, 400),
        ({"content": "x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": "x", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": '{"prompt": "x"}', "headers": {"content-type": "application/vnd.x+json"}}, 200),
        ({"content": b" " * (5 << 20), "headers": {"content-type": "application/json"}}, 413),
    ],
)
def test_bodies_that_are_no_object_are_refused(
    tmp_path: Path, request_: dict[str, Any], expected: int
) -> None:
    assert order(tmp_path, **request_)[0] == expected


@pytest.mark.parametrize(
    "body", [{"sample_mode": True, "thinking": True}, {"sampleMode": "true", "lyrics": ""}]
)
def test_a_song_to_begin_with_stands_in_for_what_a_language_model_would_write(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    async def ask(door: Door) -> None:
        assert (await door.http.post("/release_task", json=body | {"audio_duration": 20})).status_code == 200
        (job,) = door.gateway.book.jobs()
        order = job.record.order
        (sample,) = (sample for sample in SAMPLES if sample.caption == order.caption)
        assert order.notes[0].startswith("sample_mode took a song to begin with")
        assert (order.options["lyrics"], order.options["bpm"]) == (sample.lyrics, sample.bpm)
        assert order.options["duration_s"] == 20.0

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), ask)


def test_who_says_what_the_music_is_like_gets_no_sample(tmp_path: Path) -> None:
    async def ask(door: Door) -> None:
        await door.http.post("/release_task", json={"sample_mode": True, "prompt": "jazz"})
        (job,) = door.gateway.book.jobs()
        assert job.record.order.caption == "jazz"
        assert "bpm" not in job.record.order.options
        assert job.record.order.notes[0].startswith("sample_mode was left out")

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), ask)


def test_what_no_language_model_does_is_said(tmp_path: Path) -> None:
    body = {"sample_query": "x", "thinking": True, "lm_temperature": 0.8, "use_cot_caption": False, "odd": 1}
    body["preview"] = True

    async def ask(door: Door) -> None:
        await door.http.post("/release_task", json=body)
        (job,) = door.gateway.book.jobs()
        query, asked, unknown = job.record.order.notes
        assert "sample_query" in query
        assert asked.endswith("thinking, lm_temperature")
        assert unknown.endswith(": odd, preview")

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), ask)


@pytest.mark.parametrize(
    ("header", "token", "expected"),
    [
        (None, None, 401),
        ("Bearer no", None, 401),
        ("Bearer secret", None, 200),
        ("secret", None, 200),
        (None, "secret", 200),
        ("Bearer secret", "no", 401),
    ],
)
@pytest.mark.parametrize("kind", ["json", "data"])
def test_the_key_comes_in_the_body_or_the_header(
    tmp_path: Path, header: str | None, token: str | None, expected: int, kind: str
) -> None:
    body = {"prompt": "x"} | ({"ai_token": token} if token else {})
    headers = {"Authorization": header} if header else {}
    assert order(tmp_path, "secret", headers=headers, **{kind: body})[0] == expected


@pytest.mark.parametrize(
    "request_",
    [
        {"data": {"bpm": "fast"}, "files": {"src_audio": ("a.wav", b"1")}},
        {"content": "{", "headers": {"content-type": "application/json"}},
        {"content": "x", "headers": {"content-type": "text/plain"}},
        {"content": "x", "headers": {"content-type": "multipart/form-data"}},
    ],
)
def test_who_has_no_key_hears_of_nothing_else(tmp_path: Path, request_: dict[str, Any]) -> None:
    status, _, client = order(tmp_path, "secret", **request_)
    assert status == 401
    assert not client.uploaded
