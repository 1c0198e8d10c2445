"""Upstream's contract, as its clients use it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from acestage.errors import (
    InvalidArgumentError,
    NotFoundError,
    QueueFullError,
    VramBudgetExceededError,
    WorkerCrashedError,
)
from acestage.generation import Generation, JobQueued
from acestage.limits import Clamped, Limit
from services.gateway.rest.bodies.body_limit import MAX_TEXT_BYTES
from tests.unit.gateway.rest.rest_door import Door, through_door
from tests.unit.gateway.scripted_orchestrator import NO_AUDIO, ScriptedOrchestrator, song, stopped

AUDIO = "a" + "0" * 32
PROMPT = {"prompt": "piano", "seed": 7}
TRACK_KEYS = {
    *("file", "wave", "status", "create_time", "env", "prompt", "lyrics", "metas", "generation_info"),
    *("seed_value", "lm_model", "dit_model", "progress", "stage"),
}


async def query(door: Door, *task_ids: str) -> list[dict[str, Any]]:
    answer = await door.http.post("/query_result", json={"task_id_list": list(task_ids)})
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def ask(tmp_path: Path, client: ScriptedOrchestrator, **request: Any) -> httpx.Response:
    """The answer to one `/release_task`."""

    async def body(door: Door) -> httpx.Response:
        return await door.http.post("/release_task", **request)

    response: httpx.Response = through_door(tmp_path, client, body)
    return response


@pytest.mark.parametrize(
    "request_body",
    [
        {"json": PROMPT},
        {
            "content": json.dumps(PROMPT),
            "headers": {"Content-Type": "application/vnd.api+json; charset=utf-8"},
        },
        {"data": PROMPT},
        {"files": {"prompt": (None, "piano"), "seed": (None, "7")}},
        {"json": {"caption": "piano", "param_obj": {"seed": 7}}},
        {"json": {"param_obj": json.dumps({"caption": "piano"}), "metas": {"seed": "7"}}},
    ],
    ids=["json", "json-suffix", "urlencoded", "multipart", "param_obj", "metas"],
)
def test_a_task_is_taken_in_every_form(tmp_path: Path, request_body: dict[str, Any]) -> None:
    client = ScriptedOrchestrator(song("abc"))
    answer = ask(tmp_path, client, **request_body)
    assert answer.status_code == 200, answer.text
    frame = answer.json()
    assert frame["data"] == {"task_id": "abc", "status": "queued", "queue_position": 1}
    assert (frame["code"], frame["error"], frame["extra"]) == (200, None, None)
    assert frame["timestamp"] > 1_700_000_000_000
    assert client.started == [("piano", {"seed": 7, "detached": True})]


def test_a_finished_task_has_its_tracks_and_their_audio(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        body = {"prompt": "piano", "lyrics": "la", "audio_format": "flac", "batch_size": 2, "bpm": 90}
        await door.http.post("/release_task", json=body)
        await door.ended("abc")
        (task,) = await query(door, "abc")
        assert (task["task_id"], task["status"], task["progress_text"]) == ("abc", 1, "succeeded")
        tracks = json.loads(task["result"])
        assert len(tracks) == 2
        for track in tracks:
            assert track.keys() == TRACK_KEYS
            assert (track["prompt"], track["lyrics"], track["seed_value"]) == ("piano", "la", "7,8")
            assert (track["status"], track["progress"], track["dit_model"]) == (1, 1.0, "tiny")
            assert track["metas"]["keyscale"] == "N/A"
            assert track["metas"]["bpm"] == 90
        address = tracks[1]["file"]
        assert address.startswith("/v1/audio?path=")
        whole = await door.http.get(address)
        assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/flac")
        assert whole.content.startswith(b"fLaC")
        part = await door.http.get(address, headers={"Range": "bytes=2-9"})
        assert (part.status_code, part.content) == (206, whole.content[2:10])
        for same in (address, "/v1/jobs/abc/audio?format=flac&take=1"):
            again = await door.http.get(same, headers={"If-None-Match": whole.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        head = await door.http.head(address)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(whole.content)

    through_door(tmp_path, ScriptedOrchestrator(song("abc", take_count=2)), body)


def test_a_task_that_goes_on_says_where_it_is_and_nothing_of_others(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        for _ in range(2):
            await door.http.post("/release_task", json=PROMPT | {"prompt": "secret harp"})
        while door.gateway.book.find("abc").record.progress.done_count != 1:
            await door.gateway.book.find("abc").changed()
        first, second = await query(door, "abc", "def")
        assert (first["status"], first["progress_text"]) == (0, "dit: 1 of 2")
        progress = json.loads(first["result"])[0]["progress"]
        assert 0.2 < progress < 0.4
        assert json.loads(first["result"])[0]["dit_model"] == "tiny"
        assert (await door.http.get("/v1/jobs/abc")).json()["progress"]["fraction"] == progress
        assert (second["status"], second["progress_text"]) == (0, "queued, number 3")
        assert json.loads(second["result"])[0]["progress"] == 0.0

    never = asyncio.Event()
    client = ScriptedOrchestrator([*song("abc")[:4], never], [JobQueued("def", 3), never])
    through_door(tmp_path, client, body)


def test_a_task_that_goes_on_names_the_model_that_it_asked_for(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await door.http.post("/release_task", json=PROMPT | {"model": "other"})
        (task,) = await query(door, "abc")
        assert json.loads(task["result"])[0]["dit_model"] == "other"

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), body)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (WorkerCrashedError("the worker of vae was killed"), "the worker of vae was killed"),
        (stopped("abc"), "cancel"),
    ],
)
def test_a_task_that_failed_says_why(tmp_path: Path, error: Exception, text: str) -> None:
    async def body(door: Door) -> None:
        await door.http.post("/release_task", json=PROMPT)
        await door.ended("abc")
        (task,) = await query(door, "abc")
        assert task["status"] == 2
        assert text in task["progress_text"]
        assert text in json.loads(task["result"])[0]["error"]

    through_door(tmp_path, ScriptedOrchestrator([*song("abc")[:3], error]), body)


def test_a_task_of_before_a_restart_is_known(tmp_path: Path) -> None:
    async def start(door: Door) -> None:
        await door.http.post("/release_task", json=PROMPT)

    async def wait(door: Door) -> None:
        await door.ended("abc")
        (task,) = await query(door, "abc")
        assert task["status"] == 1

    through_door(tmp_path, ScriptedOrchestrator([*song("abc")[:3], asyncio.Event()]), start)
    through_door(tmp_path, ScriptedOrchestrator(song("abc")), wait)


def test_unknown_tasks_are_empty_and_lists_may_be_text(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        empty = {"task_id": "nobody", "status": 0, "result": "[]", "progress_text": ""}
        assert await query(door, "nobody") == [empty]
        as_text = await door.http.post("/query_result", data={"task_id_list": '["nobody"]'})
        assert as_text.json()["data"] == [empty]
        missing = await door.http.post("/query_result", json={})
        assert (missing.status_code, missing.json()["fields"].keys()) == (400, {"task_id_list"})

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_wrong_requests_name_the_field_by_its_name_here(tmp_path: Path) -> None:
    refused = InvalidArgumentError.at("duration_s", "is 700; accepted: 10 to 180 (tier 1)")
    answer = ask(tmp_path, ScriptedOrchestrator([refused]), json=PROMPT | {"audio_duration": 700})
    assert answer.status_code == 400
    assert answer.json()["fields"] == {"audio_duration": "is 700; accepted: 10 to 180 (tier 1)"}
    assert answer.json()["detail"] == "audio_duration: is 700; accepted: 10 to 180 (tier 1)"


@pytest.mark.parametrize("path", ["/release_task", "/v1/jobs"])
def test_what_no_device_can_hold_names_the_field_by_its_name_here(tmp_path: Path, path: str) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post(path, json=PROMPT | {"audio_duration": 20})
        fault = "no song fits, not even one of 10 s (planner)"
        assert (answer.status_code, answer.json()["reason"]) == (400, "VRAM_BUDGET_EXCEEDED")
        assert answer.json()["fields"] == {"audio_duration": fault}
        assert answer.json()["detail"] == f"audio_duration: {fault}"

    refused = VramBudgetExceededError(
        "duration_s: no song fits, not even one of 10 s (planner)",
        metadata={"field": "duration_s", "source": "planner"},
    )
    through_door(tmp_path, ScriptedOrchestrator([refused]), body)


def test_what_no_device_can_hold_for_another_reason_names_no_field(tmp_path: Path) -> None:
    refused = VramBudgetExceededError("dit needs at least 900 MiB on cuda:0 for this request")
    answer = ask(tmp_path, ScriptedOrchestrator([refused]), json=PROMPT)
    assert (answer.status_code, answer.json().get("fields")) == (400, None)
    assert answer.json()["detail"] == refused.message


@pytest.mark.parametrize(
    ("option", "field"),
    [("duration_s", "audio_duration"), ("batch_size", "batch_size"), ("seeds", "batch_size")],
)
def test_what_was_lowered_is_called_by_its_name_here(tmp_path: Path, option: str, field: str) -> None:
    async def body(door: Door) -> None:
        await door.http.post("/release_task", json=PROMPT | {"clamp": True})
        await door.ended("abc")
        job = (await door.http.get("/v1/jobs/abc")).json()
        assert job["clamped"] == [{"field": field, "requested": 600, "limit": 180, "source": "tier 1"}]
        (task,) = await query(door, "abc")
        (track,) = json.loads(task["result"])
        assert f"{field}: 600 was lowered to 180 (tier 1)" in track["generation_info"]

    *events, generation = song("abc")
    assert isinstance(generation, Generation)
    clamped = (Clamped(option, 600, Limit(180, "tier 1")),)
    through_door(tmp_path, ScriptedOrchestrator([*events, replace(generation, clamped=clamped)]), body)


@pytest.mark.parametrize("count", [501, 1_001])
def test_too_many_tasks_are_told_how_many_may_be_asked_of(tmp_path: Path, count: int) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post("/query_result", json={"task_id_list": ["x"] * count})
        assert answer.status_code == 400
        assert "accepted: a list of 1 to 500 ids" in answer.json()["fields"]["task_id_list"]
        assert len(await query(door, *["x"] * 500)) == 500

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_what_is_missing_is_called_by_its_name_here(tmp_path: Path) -> None:
    refused = InvalidArgumentError.at(
        "source_id", "is empty; the task 'cover' needs source_id or audio_codes"
    )
    answer = ask(tmp_path, ScriptedOrchestrator([refused]), json=PROMPT | {"task_type": "cover"})
    assert answer.json()["fields"] == {
        "src_audio": "is empty; the task 'cover' needs src_audio or audio_code_string"
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"src_audio_path": f"/v1/uploads/{AUDIO}"}, ["src_audio_path"]),
        ({"reference_audio_path": AUDIO, "src_audio_path": "a" + "1" * 32}, ["reference_audio_path"]),
        (
            {"reference_audio_path": AUDIO, "src_audio_path": AUDIO},
            ["src_audio_path", "reference_audio_path"],
        ),
    ],
)
def test_audio_that_is_not_there_is_a_wrong_field(
    tmp_path: Path, fields: dict[str, Any], named: list[str]
) -> None:
    missing = NotFoundError("there is no audio with that id", metadata={"audio_id": AUDIO})
    body = PROMPT | {"task_type": "cover"} | fields
    answer = ask(tmp_path, ScriptedOrchestrator([missing]), json=body)
    assert (answer.status_code, list(answer.json()["fields"])) == (400, named)
    assert AUDIO in answer.json()["detail"]


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        ({"json": ["piano"]}, 400),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"piano", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"content": b""}, 415),
        ({"json": PROMPT | {"bpm": "fast"}}, 400),
        ({"json": PROMPT | {"audio_format": "exe"}}, 400),
        ({"json": PROMPT | {"src_audio_path": "/etc/passwd"}}, 400),
        ({"json": PROMPT | {"reference_audio_path": "../../secret.wav"}}, 400),
        ({"content": b" " * (MAX_TEXT_BYTES + 1), "headers": {"Content-Type": "application/json"}}, 413),
        ({"data": PROMPT, "files": {"src_audio": ("a.wav", NO_AUDIO)}}, 400),
    ],
)
def test_what_cannot_be_taken_starts_nothing(
    tmp_path: Path, request_body: dict[str, Any], status: int
) -> None:
    client = ScriptedOrchestrator(song("abc"))
    answer = ask(tmp_path, client, **request_body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert client.started == []


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    full = QueueFullError("queue: 200 jobs wait", retry_delay_s=9.5)
    answer = ask(tmp_path, ScriptedOrchestrator([full]), json=PROMPT)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")


def test_files_are_uploaded_and_used_by_id(tmp_path: Path) -> None:
    client = ScriptedOrchestrator(song("abc"))
    fields = {"prompt": "jazz", "task_type": "cover", "audio_duration": "30", "audio_cover_strength": "0.5"}
    answer = ask(tmp_path, client, data=fields, files={"ctx_audio": ("a.wav", b"RIFF....")})
    assert answer.status_code == 200, answer.text
    assert client.uploaded == [b"RIFF...."]
    ((caption, options),) = client.started
    assert caption == "jazz"
    assert options == {
        "task": "cover", "source_id": f"a{1:032x}", "audio_cover_strength": 0.5, "detached": True
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "abc/job.json", "abc/../../secret", "%2e%2e/secret", ".lock", ""]
)
def test_no_file_elsewhere_is_given_out(tmp_path: Path, path: str) -> None:
    async def body(door: Door) -> None:
        (tmp_path / "secret").write_text("secret")
        await door.http.post("/release_task", json=PROMPT)
        await door.ended("abc")
        for method in ("GET", "HEAD"):
            answer = await door.http.request(method, "/v1/audio", params={"path": path})
            assert answer.status_code in (403, 404)
            assert "secret" not in answer.text.replace(path, "")

    through_door(tmp_path / "out", ScriptedOrchestrator(song("abc")), body)


def test_audio_needs_a_path_that_is_there(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        missing = await door.http.get("/v1/audio")
        assert (missing.status_code, missing.json()["fields"]) == (422, {"path": "is missing"})
        assert (await door.http.get("/v1/audio", params={"path": "abc/none.mp3"})).status_code == 404

    through_door(tmp_path, ScriptedOrchestrator(), body)


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"Authorization": "Bearer k3y"}, {}),
        ({"Authorization": "k3y"}, {}),
        ({}, {"ai_token": "k3y"}),
        ({"Authorization": "wrong"}, {"ai_token": "k3y"}),
    ],
)
def test_the_key_comes_in_the_body_or_the_header(
    tmp_path: Path, headers: dict[str, str], fields: dict[str, str]
) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post("/release_task", json=PROMPT | fields, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (await door.http.get("/health")).json()["data"]["status"] == "ok"

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body, secret="k3y")


def test_files_of_who_has_no_key_are_not_passed_on(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post(
            "/release_task", data={"task_type": "cover"}, files={"src_audio": ("a.wav", b"RIFF")}
        )
        assert answer.status_code == 401
        assert client.uploaded == []

    client = ScriptedOrchestrator()
    through_door(tmp_path, client, body, secret="k3y")


def test_models_and_figures(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        models = (await door.http.get("/v1/models")).json()
        assert (models["object"], [model["id"] for model in models["data"]]) == (
            "list",
            ["tiny", "tiny-base"],
        )
        inventory = (await door.http.get("/v1/model_inventory")).json()["data"]
        assert inventory["default_model"] == "tiny"
        assert inventory["models"] == [
            {"name": "tiny", "is_default": True, "is_loaded": True},
            {"name": "tiny-base", "is_default": False, "is_loaded": True},
        ]
        assert (inventory["lm_models"], inventory["llm_initialized"]) == ([], False)
        stats = (await door.http.get("/v1/stats")).json()["data"]
        assert stats["jobs"] == {"total": 15, "queued": 2, "running": 1, "succeeded": 3, "failed": 9}
        assert (stats["queue_size"], stats["queue_maxsize"], stats["avg_job_seconds"]) == (2, 200, 0.0)

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_a_model_that_is_served_counts_as_loaded(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        for wanted, loaded in (({"model": "tiny-base", "init_llm": True}, "tiny-base"), ({}, "tiny")):
            answer = (await door.http.post("/v1/init", json=wanted)).json()["data"]
            assert (answer["loaded_model"], answer["llm_initialized"]) == (loaded, False)
        refused = await door.http.post("/v1/init", json={"model": "huge"})
        assert refused.status_code == 400
        assert "accepted: tiny, tiny-base" in refused.json()["detail"]

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_samples_can_be_ordered_and_formatting_needs_a_language_model(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        sample = (await door.http.post("/create_random_sample", json={})).json()["data"]
        assert (await door.http.post("/release_task", json=sample)).status_code == 200
        answer = await door.http.post("/format_input", json={"prompt": "x"})
        assert answer.status_code == 503
        assert "no" in answer.json()["detail"]

    client = ScriptedOrchestrator(song("abc"))
    through_door(tmp_path, client, body)
    ((_, options),) = client.started
    assert options.keys() >= {"duration_s", "bpm", "key_scale", "time_signature", "language", "lyrics"}


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [("http://localhost:3000", True), ("http://127.0.0.1:5173", True), ("http://evil.example", False)],
)
def test_only_pages_of_this_machine_may_read(tmp_path: Path, origin: str, is_let_in: bool) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.get("/health", headers={"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) is is_let_in

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_the_address_of_audio_is_one_parameter_whatever_the_title(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await door.http.post("/release_task", json=PROMPT | {"title": "R&B? 100% / ünïcode #1"})
        await door.ended("abc")
        (task,) = await query(door, "abc")
        address = json.loads(task["result"])[0]["file"]
        assert parse_qs(urlsplit(address).query).keys() == {"path"}
        assert (await door.http.get(address)).status_code == 200

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)
