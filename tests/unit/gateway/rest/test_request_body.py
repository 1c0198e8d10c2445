"""What is read of a request's body, and by whom."""

from __future__ import annotations

import asyncio
import logging
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import UploadFile

from services.gateway.rest.app import create_rest_app
from services.gateway.rest.bodies import body_limit
from services.gateway.rest.bodies.body_limit import MAX_TEXT_BYTES
from services.runtime.rpc.api_key import ApiKey
from tests.unit.gateway.rest.rest_door import Door, through_door
from tests.unit.gateway.scripted_orchestrator import ScriptedOrchestrator, song

FORM = {"Content-Type": "multipart/form-data; boundary=b"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="src_audio"; filename="a.wav"\r\n\r\n'
WRONG = {"Authorization": "Bearer wrong"}
TAKES_FILES = ("/release_task", "/v1/jobs")
TAKES_NONE = ("/query_result", "/v1/init", "/create_random_sample", "/format_input")


@pytest.mark.parametrize(
    ("path", "headers"),
    [(path, WRONG) for path in TAKES_FILES + TAKES_NONE] + [(path, {}) for path in TAKES_NONE],
)
def test_of_who_has_no_key_no_long_body_is_read(tmp_path: Path, path: str, headers: dict[str, str]) -> None:
    read_count = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal read_count
        yield HEAD
        while True:
            read_count += 1
            yield bytes(1 << 20)

    async def body(door: Door) -> None:
        answer = await door.http.post(path, content=content(), headers=FORM | headers)
        assert answer.status_code == 401
        assert read_count <= MAX_TEXT_BYTES >> 20
        told = {"Content-Length": str(600 << 20)}
        told_answer = await door.http.post(path, content=content(), headers=FORM | told | headers)
        assert told_answer.status_code == 401
        assert read_count <= MAX_TEXT_BYTES >> 20

    through_door(tmp_path, ScriptedOrchestrator(), body, secret="k3y")


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"Authorization": "Bearer k3y"}, 400), (WRONG, 401)]
)
def test_the_texts_of_a_form_are_no_larger_together_than_another_body_of_text(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    read_count = 0
    text = b"x" * ((1 << 20) - 1) + b"\r\n"

    async def content() -> AsyncIterator[bytes]:
        nonlocal read_count
        for index in range(50):
            read_count += 1
            yield b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n' % index + text
        yield b"--b--\r\n"

    async def body(door: Door) -> None:
        answer = await door.http.post("/v1/jobs", content=content(), headers=FORM | headers)
        assert answer.status_code == status
        assert read_count <= 6

    through_door(tmp_path, ScriptedOrchestrator(), body, secret="k3y")


def test_a_body_that_does_not_say_how_long_it_is_has_the_same_bound(tmp_path: Path) -> None:
    read_count = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal read_count
        while True:
            read_count += 1
            yield b" " * (1 << 20)

    async def body(door: Door) -> None:
        json = {"Content-Type": "application/json"}
        answer = await door.http.post("/v1/jobs", content=content(), headers=json)
        assert answer.status_code == 413
        assert answer.json()["detail"] == f"the body is too large; accepted: up to {MAX_TEXT_BYTES} bytes"
        assert read_count <= (MAX_TEXT_BYTES >> 20) + 1

    through_door(tmp_path, ScriptedOrchestrator(), body)


@pytest.mark.parametrize("path", TAKES_FILES)
@pytest.mark.parametrize(("token", "status"), [("k3y", 200), ("wrong", 401)])
def test_a_form_with_files_may_have_the_key_in_itself(
    tmp_path: Path, path: str, token: str, status: int
) -> None:
    async def body(door: Door) -> None:
        fields = {"prompt": "x", "task_type": "cover", "ai_token": token}
        file = {"src_audio": ("a.wav", b"RIFF" + bytes(MAX_TEXT_BYTES))}
        answer = await door.http.post(path, data=fields, files=file)
        assert answer.status_code // 100 == status // 100, answer.text

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body, secret="k3y")


@pytest.mark.parametrize("path", [*TAKES_FILES, "/v1/settings/restore", "/v1/uploads"])
def test_forms_beyond_the_places_are_refused(tmp_path: Path, path: str) -> None:
    async def body(door: Door) -> None:
        with ExitStack() as places:
            for _ in range(8):
                places.enter_context(door.gateway.uploads.take())
            answer = await door.http.post(path, files={"prompt": (None, "x")})
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            sample = await door.http.post("/create_random_sample", files={"x": (None, "x")})
            assert sample.status_code == 200

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_forms_without_a_key_take_no_places_of_others(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        form = {"prompt": (None, "x"), "ai_token": (None, "k3y")}
        with ExitStack() as places:
            for _ in range(4):
                places.enter_context(door.gateway.keyless_forms.take())
            strange = await door.http.post("/v1/jobs", files=form)
            assert strange.status_code == 429
            known = await door.http.post("/v1/jobs", files=form, headers={"Authorization": "Bearer k3y"})
            assert known.status_code == 201, known.text

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body, secret="k3y")


@pytest.mark.parametrize("path", [*TAKES_FILES, "/v1/settings/restore", "/v1/uploads"])
def test_a_body_that_stops_coming_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(body_limit, "SILENCE_TIMEOUT_S", 0.01)

    async def content() -> AsyncIterator[bytes]:
        yield HEAD
        await asyncio.Event().wait()

    async def body(door: Door) -> None:
        answer = await door.http.post(path, content=content(), headers=FORM)
        assert (answer.status_code, answer.json()) == (408, {"detail": "the body: nothing came for 0.01 s"})
        assert door.gateway.uploads.taken_count == 0

    through_door(tmp_path, ScriptedOrchestrator(), body)


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file may become larger than 2 MiB."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("path", [*TAKES_FILES, "/v1/settings/restore", "/v1/uploads"])
def test_a_full_disk_is_said(tmp_path: Path, full_disk: None, path: str) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post(path, files={"src_audio": ("a.wav", b"RIFF" + bytes(3 << 20))})
        assert answer.status_code == 429
        assert "ACESTAGE_TMPDIR" in answer.json()["detail"]
        assert door.gateway.uploads.taken_count == 0

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_a_full_disk_is_said_of_a_file_without_a_form(tmp_path: Path, full_disk: None) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post("/v1/uploads", content=b"RIFF" + bytes(3 << 20))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")

    through_door(tmp_path, ScriptedOrchestrator(), body)


@pytest.mark.parametrize("path", [*TAKES_FILES, *TAKES_NONE, "/v1/uploads", "/v1/settings/restore"])
@pytest.mark.parametrize(
    "end", [b"", b"\r\n--b", b'\r\n--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nA']
)
def test_a_form_without_its_closing_boundary_is_refused(tmp_path: Path, path: str, end: bytes) -> None:
    async def body(door: Door) -> None:
        head = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\npiano'
        answer = await door.http.post(path, content=head + end, headers=FORM)
        assert answer.status_code == 400
        assert "closing boundary" in answer.json()["detail"]
        assert client.started == []

    client = ScriptedOrchestrator(song("abc"))
    through_door(tmp_path, client, body)


def test_what_comes_after_the_closing_boundary_is_not_read(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        content = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\npiano\r\n--b--\r\nthe end'
        assert (await door.http.post("/v1/jobs", content=content, headers=FORM)).status_code == 201

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"prompt=%ff%fe", ["prompt"]),
        (b"prompt=x&lyrics=%ed%a0%80", ["lyrics"]),
        (b"prompt=x&title=\xff", ["title"]),
        (b"prompt=x&%ff=1", [r"\udcff"]),
    ],
)
def test_an_urlencoded_form_is_utf_8(tmp_path: Path, content: bytes, fields: list[str]) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post("/v1/jobs", content=content, headers=URLENCODED)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, fields)

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


def test_of_an_urlencoded_form_the_first_text_of_a_name_counts(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        content = "prompt=%C3%A1gua+\u00e1&prompt=b&lyrics&title=".encode()
        assert (await door.http.post("/v1/jobs", content=content, headers=URLENCODED)).status_code == 201
        many = b"&".join([b"prompt=x"] * 201)
        assert (await door.http.post("/v1/jobs", content=many, headers=URLENCODED)).status_code == 400

    client = ScriptedOrchestrator(song("abc"))
    through_door(tmp_path, client, body)
    assert client.started == [("água á", {"detached": True})]


@pytest.mark.parametrize("path", TAKES_NONE)
def test_files_are_refused_where_none_is_taken(tmp_path: Path, path: str) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post(path, files={"src_audio": ("a.wav", b"RIFF")})
        assert answer.status_code == 400
        assert "files" in answer.json()["detail"]

    through_door(tmp_path, ScriptedOrchestrator(), body)


def test_an_upload_is_one_file(tmp_path: Path) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post("/v1/uploads", files=[("file", b"RIFF"), ("file", b"RIFF")])
        assert answer.status_code == 400
        assert "files" in answer.json()["detail"]
        assert client.uploaded == []

    client = ScriptedOrchestrator()
    through_door(tmp_path, client, body)


@pytest.mark.parametrize(
    ("path", "text", "field"),
    [
        ("/release_task", r'{"prompt": "x", "lyrics": "\ud800"}', "lyrics"),
        ("/release_task", r'{"prompt": "x", "\ud800": 1}', r"\ud800"),
        ("/release_task", r'{"prompt": "x", "param_obj": {"title": "\udfff"}}', "param_obj"),
        ("/release_task", r'{"prompt": "x", "param_obj": "{\"title\": \"\\udfff\"}"}', "title"),
        ("/v1/jobs", r'{"prompt": "x", "adapters": [{"name": "\ud800"}]}', "adapters"),
        ("/v1/init", r'{"model": "\ud800"}', "model"),
        ("/query_result", r'{"task_id_list": ["\ud800"]}', "task_id_list"),
        ("/query_result", r'{"task_id_list": "[\"\\ud800\"]"}', "task_id_list"),
        ("/v1/settings/restore", r'{"lyrics": "\ud800"}', "file"),
        ("/v1/settings/restore", r'{"\ud800": {}}', "file"),
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(tmp_path: Path, path: str, text: str, field: str) -> None:
    async def body(door: Door) -> None:
        answer = await door.http.post(path, content=text, headers={"Content-Type": "application/json"})
        assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])

    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


def test_the_charset_of_a_form_lets_no_half_of_a_pair_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str | None] = []
    close = UploadFile.close

    async def watched_close(file: UploadFile) -> None:
        closed.append(file.filename)
        await close(file)

    async def body(door: Door) -> None:
        head = '--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
        kind = "multipart/form-data; boundary=b; charset=raw_unicode_escape"
        content = f"{head}\\ud800\r\n".encode() + HEAD + b"RIFF\r\n--b--\r\n"
        answer = await door.http.post("/v1/jobs", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["prompt"])
        assert closed == ["a.wav"]

    monkeypatch.setattr(UploadFile, "close", watched_close)
    through_door(tmp_path, ScriptedOrchestrator(song("abc")), body)


@pytest.mark.parametrize("path", ["/release_task", "/v1/uploads", "/v1/settings/restore"])
@pytest.mark.parametrize("content_type", [FORM["Content-Type"], "application/json"])
def test_a_client_that_leaves_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, content_type: str
) -> None:
    messages = [{"type": "http.request", "body": HEAD, "more_body": True}, {"type": "http.disconnect"}]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode())],
    }

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    async def body(door: Door) -> None:
        await create_rest_app(door.gateway, ApiKey())(scope, receive, send)
        assert door.gateway.uploads.taken_count == 0

    with caplog.at_level(logging.INFO):
        through_door(tmp_path, ScriptedOrchestrator(), body)
    assert not messages
    assert [record.levelname for record in caplog.records if "left" in record.message] == ["INFO"]
