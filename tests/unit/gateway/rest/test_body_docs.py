"""The description of the interface tells what bodies hold, from what reads them."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.rest.orders.song_fields import SONG_FIELDS
from tests.unit.gateway.rest.rest_door import Door, through_door
from tests.unit.gateway.scripted_orchestrator import ScriptedOrchestrator

ROUTES = ("/release_task", "/query_result", "/v1/jobs", "/v1/init", "/create_random_sample", "/format_input")
SONGS = ("/release_task", "/v1/jobs")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    async def body(door: Door) -> Any:
        return (await door.http.get("/openapi.json")).json()

    found: dict[str, Any] = through_door(tmp_path_factory.mktemp("out"), ScriptedOrchestrator(), body)
    return found


def properties(described: dict[str, Any], path: str, content_type: str) -> dict[str, Any]:
    content = described["paths"][path]["post"]["requestBody"]["content"]
    found: dict[str, Any] = content[content_type]["schema"]["properties"]
    return found


def test_every_route_that_takes_a_body_says_what_it_holds(described: dict[str, Any]) -> None:
    posts = [path for path, methods in described["paths"].items() if "post" in methods]
    assert {*ROUTES, "/v1/uploads", "/v1/settings/restore"} == set(posts)
    for path in posts:
        assert "requestBody" in described["paths"][path]["post"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data", "application/x-www-form-urlencoded"]
)
def test_the_key_may_be_in_each_body(described: dict[str, Any], path: str, content_type: str) -> None:
    assert properties(described, path, content_type)["ai_token"]["type"] == "string"


@pytest.mark.parametrize("path", SONGS)
def test_a_song_has_all_fields_that_are_read(described: dict[str, Any], path: str) -> None:
    found = properties(described, path, "application/json")
    assert found.keys() == {*SONG_FIELDS, "param_obj", "metas", "ai_token"}
    assert found["audio_duration"] == {
        "type": "number",
        "description": "Also called duration, target_duration.",
    }
    with_files = properties(described, path, "multipart/form-data")
    assert with_files.keys() - found.keys() == {"src_audio", "reference_audio"}
    assert with_files["src_audio"]["format"] == "binary"


def test_a_query_needs_its_tasks(described: dict[str, Any]) -> None:
    body = described["paths"]["/query_result"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["required"] == ["task_id_list"]
    assert body["required"]
    assert not described["paths"]["/create_random_sample"]["post"]["requestBody"]["required"]
