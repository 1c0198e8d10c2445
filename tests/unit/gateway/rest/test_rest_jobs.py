"""`/v1/jobs` over a scripted orchestrator."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from acestage.errors import WorkerCrashedError
from acestage.generation import JobQueued
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs import job_follower
from services.gateway.outputs.takes import UNTRAINED, write_takes
from services.gateway.rest import jobs_api
from services.gateway.rest.app import create_rest_app
from services.runtime.rpc.api_key import ApiKey
from tests.unit.gateway.rest.rest_door import Door, through_door
from tests.unit.gateway.scripted_orchestrator import NO_AUDIO, ScriptedOrchestrator, song, stopped

ORDER = {"prompt": "piano", "seed": 7, "title": "Água", "audio_format": "flac"}


async def made(door: Door, **fields: Any) -> dict[str, Any]:
    """A job that has ended, as it is then."""
    answer = await door.http.post("/v1/jobs", json=ORDER | fields)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["job_id"]
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    await door.ended(job_id)
    job: dict[str, Any] = (await door.http.get(f"/v1/jobs/{job_id}")).json()
    return job


async def start(door: Door) -> None:
    assert (await door.http.post("/v1/jobs", json=ORDER)).status_code == 201


def told_take(index: int) -> dict[str, Any]:
    """What is told of the take `index` of a scripted song."""
    base = "/v1/jobs/abc"
    return {
        "seed": 7 + index,
        "duration_s": 0.1,
        "sample_count": 4_800,
        "sample_rate_hz": 48_000,
        "gain": 1.0,
        "peak": 0.5,
        "rms": 0.3,
        "samples_sha256": "ab",
        "files": {name: f"{base}/audio?format={name}&take={index}" for name in ExportFormat},
        "waveform": f"{base}/waveform?take={index}",
        "spectrogram": f"{base}/spectrogram.png?take={index}",
        "settings": f"{base}/settings?take={index}",
        "warnings": [UNTRAINED],
    }


def test_a_job_tells_all_of_itself(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        job = await made(door, batch_size=2)
        created, started, ended = (
            datetime.fromisoformat(job.pop(name)) for name in ("created_at", "started_at", "ended_at")
        )
        assert created <= started <= ended
        settings = job.pop("settings")
        assert (settings["task"], settings["seeds"]) == ("text2music", [7, 8])
        takes = [told_take(0), told_take(1)]
        assert job == {
            "job_id": "abc",
            "state": "succeeded",
            "title": "Água",
            "run_s": 2.0,
            "progress": {
                "stage": "",
                "step": 0,
                "step_count": 0,
                "fraction": 1.0,
                "stage_left_s": None,
                "device_position": None,
                "queue_position": None,
                "starts_in_s": None,
            },
            "seeds": [7, 8],
            "takes": takes,
            "audio": "/v1/jobs/abc/audio?format=flac&take=0",
            "events": "/v1/jobs/abc/events",
            "warnings": [UNTRAINED],
            "clamped": [],
            "notes": [],
            "failure": None,
        }
        for take in takes:
            for address in (take["files"]["flac"], take["waveform"], take["spectrogram"], take["settings"]):
                assert (await door.http.get(address)).status_code == 200

    through_door(tmp_path, ScriptedOrchestrator(song("abc", take_count=2)), body)


def test_a_job_that_failed_tells_why(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        job = await made(door)
        assert (job["state"], job["takes"], job["seeds"]) == ("failed", [], [7])
        assert job["failure"] == {"reason": "WORKER_CRASHED", "message": "the worker of dit is gone"}

    crash = WorkerCrashedError("the worker of dit is gone")
    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 0), crash]), body)


@pytest.mark.parametrize("ordered", ["flac", "wav24"])
def test_files_of_each_format_and_depth_have_names_of_their_own(tmp_path: Path, ordered: str) -> None:
    async def body(door: Door) -> None:
        (take,) = (await made(door, audio_format=ordered))["takes"]
        names = set()
        for address in take["files"].values():
            answer = await door.http.get(address)
            names.add(answer.headers["content-disposition"].partition("=")[2])
        assert len(names) == len(take["files"]) == len(ExportFormat)

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


def test_a_job_that_waits_tells_when_it_starts(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await made(door)  # took 2 s
        answer = await door.http.post("/v1/jobs", json=ORDER)
        progress = answer.json()["progress"]
        assert (progress["queue_position"], progress["starts_in_s"]) == (3, 6.0)

    through_door(tmp_path, ScriptedOrchestrator(song("abc"), [JobQueued("def", 3), asyncio.Event()]), body)


def test_a_repeated_request_is_one_job(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        key = {"Idempotency-Key": "k"}
        ids = [(await door.http.post("/v1/jobs", json=ORDER, headers=key)).json()["job_id"] for _ in range(2)]
        assert ids == ["abc", "abc"]
        other = await door.http.post("/v1/jobs", json=ORDER | {"seed": 8}, headers=key)
        assert (other.status_code, other.json()["fields"].keys()) == (400, {"Idempotency-Key"})

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


def test_a_repeated_request_for_any_song_is_one_job(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        for _ in range(10):
            answer = await door.http.post(
                "/v1/jobs", json={"sample_mode": True}, headers={"Idempotency-Key": "k"}
            )
            assert (answer.status_code, answer.json()["job_id"]) == (201, "abc")
        titles = set()
        for number in range(2, 12):
            key = {"Idempotency-Key": f"k{number}"}
            answer = await door.http.post("/v1/jobs", json={"sample_mode": True}, headers=key)
            titles.add(answer.json()["title"])
        assert len(titles) > 1

    client = ScriptedOrchestrator(song("abc"), *(song(f"j{number}") for number in range(2, 12)))
    through_door(tmp_path, client, body)


def test_jobs_are_listed_the_newest_first_and_by_state(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await made(door)
        await made(door)
        listed = (await door.http.get("/v1/jobs")).json()
        assert ([job["job_id"] for job in listed["jobs"]], listed["total_count"]) == (["def", "abc"], 2)
        failed = (await door.http.get("/v1/jobs", params={"state": "failed"})).json()
        assert [job["failure"]["reason"] for job in failed["jobs"]] == ["WORKER_CRASHED"]
        for name, value, accepted in (
            ("limit", "0", "1 or more"),
            ("limit", "201", "up to 200"),
            ("limit", "x", "a whole number"),
            ("state", "odd", "'queued', 'running', 'succeeded', 'failed' or 'cancelled'"),
        ):
            wrong = await door.http.get("/v1/jobs", params={name: value})
            expected = {name: f"is {value!r}; accepted: {accepted}"}
            assert (wrong.status_code, wrong.json()["fields"]) == (400, expected)

    client = ScriptedOrchestrator(song("abc"), [*song("def")[:3], WorkerCrashedError("it died")])
    through_door(tmp_path, client, body)


def test_a_job_is_stopped(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        gate = asyncio.Event()
        client.on_cancel = gate.set
        client.calls = [[*song("abc")[:3], gate, stopped("abc")]]
        await door.http.post("/v1/jobs", json=ORDER)
        stopped_job = (await door.http.delete("/v1/jobs/abc")).json()
        assert stopped_job["state"] == "cancelled"
        assert (await door.http.delete("/v1/jobs/abc")).json() == stopped_job
        assert (await door.http.delete("/v1/jobs/nobody")).status_code == 404
        assert (await door.http.get("/v1/jobs/abc/audio")).status_code == 409

    client = ScriptedOrchestrator()
    through_door(tmp_path, client, body)


def test_events_are_resumed_after_the_last_that_was_heard(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await made(door)
        whole = (await door.http.get("/v1/jobs/abc/events")).text
        assert whole.startswith("id: 0\nevent: queued\ndata: {")
        assert whole.endswith('id: 6\nevent: succeeded\ndata: {"job_id": "abc"}\n\n')
        rest = await door.http.get("/v1/jobs/abc/events", headers={"Last-Event-ID": "4"})
        assert rest.text == whole[whole.index("id: 5") :]
        for number in ("x", "-1", "9" * 4_400):
            wrong = await door.http.get("/v1/jobs/abc/events", headers={"Last-Event-ID": number})
            assert (wrong.status_code, list(wrong.json()["fields"])) == (400, ["Last-Event-ID"])

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


async def heard_after(door: Door, last: str) -> tuple[int, str]:
    """The status and the body of the answer to who has heard event `last`."""
    answer = await door.http.get("/v1/jobs/abc/events", headers={"Last-Event-ID": last})
    return answer.status_code, answer.text


def test_who_has_heard_the_end_is_told_to_stop(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        assert await heard_after(door, "6") == (204, "")

    async def make(door: Door) -> None:
        await made(door)
        await body(door)

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), make)
    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_the_last_event_so_far_is_not_the_end(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await start(door)
        job = door.gateway.book.find("abc")
        while job.events.count < 2:
            await job.changed()
        assert not job.has_ended_with(1)
        gate.set()
        await job.ended()
        assert [job.has_ended_with(number) for number in (1, 2, 3)] == [False, True, False]

    gate = asyncio.Event()
    through_door(tmp_path, ScriptedOrchestrator([*song("abc")[:2], gate, stopped("abc")]), body)


def test_listeners_of_a_silent_job_hear_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_api, "HEARTBEAT_S", 0.01)

    async def body(door: Door) -> str:
        await start(door)
        listening = asyncio.create_task(door.http.get("/v1/jobs/abc/events"))
        await asyncio.sleep(0.2)
        gate.set()
        return (await listening).text

    gate = asyncio.Event()
    text = through_door(tmp_path, ScriptedOrchestrator([*song("abc")[:2], gate, stopped("abc")]), body)
    lines = text.split("\n\n")
    still_here = [index for index, line in enumerate(lines) if line == ": still here"]
    assert len(still_here) > 1
    names = [line.split("\n")[1] for index, line in enumerate(lines[:-1]) if index not in still_here]
    assert names == ["event: queued", "event: queued", "event: cancelled"]


@pytest.mark.parametrize("last", ["0", "5", "7", "999999999999999999"])
def test_who_resumes_after_a_restart_hears_the_end(tmp_path: Path, last: str) -> None:
    async def body(door: Door) -> None:
        end = 'id: 6\nevent: succeeded\ndata: {"job_id": "abc"}\n\n'
        assert await heard_after(door, last) == (200, end)

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), made)
    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_who_heard_more_than_a_job_says_again_hears_its_end(tmp_path: Path) -> None:
    async def body(door: Door) -> str:
        asking = door.http.get("/v1/jobs/abc/events", headers={"Last-Event-ID": "50"})
        answer, _ = await asyncio.gather(asking, door.ended("abc"))
        return answer.text

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), start)
    heard = through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)
    assert heard == 'id: 6\nevent: succeeded\ndata: {"job_id": "abc"}\n\n'


@pytest.mark.parametrize(
    ("query", "field"),
    [({"format": "exe"}, "format"), ({"format": "opus"}, "format"), ({"take": 1}, "take")],
)
def test_what_there_is_no_audio_for_is_named(tmp_path: Path, query: dict[str, Any], field: str) -> None:
    async def body(door: Door) -> None:
        door.gateway.formats[ExportFormat.opus] = "its encoder is missing"  # type: ignore[index]
        await made(door)
        answer = await door.http.get("/v1/jobs/abc/audio", params=query)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])
        assert "accepted: " in answer.json()["detail"]

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


@pytest.mark.parametrize("audio_format", ["aac", "flac"])
def test_who_comes_while_the_files_are_written_gets_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio_format: str
) -> None:
    is_writing, may_write = threading.Event(), threading.Event()

    def write(*arguments: Any) -> Any:
        is_writing.set()
        assert may_write.wait(10)
        return write_takes(*arguments)

    async def body(door: Door) -> None:
        await start(door)
        await asyncio.to_thread(is_writing.wait, 10)
        address = f"/v1/jobs/abc/audio?format={audio_format}"
        is_waiting = asyncio.Event()
        job = door.gateway.book.find("abc")
        changed = job.changed

        async def watched() -> None:
            is_waiting.set()
            await changed()

        monkeypatch.setattr(job, "changed", watched)
        asking = asyncio.create_task(door.http.get(address))
        await is_waiting.wait()
        assert door.gateway.live_streams.taken_count == 1
        may_write.set()
        early, late = await asking, await door.http.get(address)
        for name in ("content-type", "content-length", "content-disposition"):
            assert early.headers[name] == late.headers[name]
        assert early.content == late.content
        assert door.gateway.live_streams.taken_count == 0

    monkeypatch.setattr(job_follower, "write_takes", write)
    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


def test_who_waits_for_a_queued_song_gets_the_head_at_once(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await start(door)
        heard: list[Any] = []
        has_begun = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await has_begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            heard.append(message)
            has_begun.set()

        path = "/v1/jobs/abc/audio"
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
        await create_rest_app(door.gateway, ApiKey())(scope, receive, send)
        (head,) = heard
        assert (head["type"], head["status"]) == ("http.response.start", 200)
        assert (b"content-type", b"audio/mpeg") in head["headers"]

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), body)


@pytest.mark.parametrize(
    ("fields", "most"), [({}, 0), ({"batch_size": 2}, 1), ({"seed": "1,5,3"}, 2), ({"clamp": True}, 0)]
)
def test_a_take_that_cannot_come_is_not_waited_for(tmp_path: Path, fields: dict[str, Any], most: int) -> None:
    async def body(door: Door) -> None:
        await door.http.post("/v1/jobs", json=ORDER | fields)
        for method in ("GET", "HEAD"):
            answer = await door.http.request(method, f"/v1/jobs/abc/audio?take={most + 1}")
            assert answer.status_code == 400
        answer = await door.http.get(f"/v1/jobs/abc/audio?take={most + 1}")
        assert answer.json()["fields"] == {"take": f"is {most + 1}; accepted: 0 to {most}"}
        assert (await door.http.head(f"/v1/jobs/abc/audio?take={most}")).status_code == 200

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), body)


def test_listeners_beyond_the_places_are_refused(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        await door.http.post("/v1/jobs", json=ORDER)
        with ExitStack() as places:
            for _ in range(16):
                places.enter_context(door.gateway.live_streams.take())
            answer = await door.http.get("/v1/jobs/abc/audio")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
        head = await door.http.head("/v1/jobs/abc/audio")
        assert (head.status_code, head.headers["accept-ranges"]) == (200, "none")

    through_door(tmp_path, ScriptedOrchestrator([JobQueued("abc", 1), asyncio.Event()]), body)


def test_files_come_as_bodies_or_in_forms(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        for request in ({"content": b"RIFF"}, {"files": {"file": ("a.wav", b"RIFF")}}):
            answer = await door.http.post("/v1/uploads", **request)  # type: ignore[arg-type]
            assert answer.status_code == 201, answer.text
            assert answer.json()["path"] == f"/v1/uploads/{answer.json()['audio_id']}"
        for wrong in ({"content": b""}, {"content": NO_AUDIO}, {"files": {"other": ("a.wav", b"RIFF")}}):
            answer = await door.http.post("/v1/uploads", **wrong)  # type: ignore[arg-type]
            assert (answer.status_code, list(answer.json()["fields"])) == (400, ["file"])
            assert answer.json()["detail"].startswith("file: is ")
            answer = await door.http.post("/v1/settings/restore", **wrong)  # type: ignore[arg-type]
            assert answer.status_code == 400

    through_door(tmp_path, ScriptedOrchestrator(), body)
