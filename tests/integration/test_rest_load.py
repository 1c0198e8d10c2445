"""Many clients at once: what is accepted is made, what is not is told when to come again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from acestage import Client
from acestage.errors import QueueFullError
from acestage.generation import Generation
from tests.running_gateway import RunningGateway
from tests.running_stack import RunningStack, wait_until

CLIENT_COUNT = 50
JOBS_EACH = 4
QUEUE_MAX_COUNT = 6
SONG = {"prompt": "warm piano", "audio_duration": 10, "inference_steps": 1}


def test_200_jobs_of_50_clients_are_made_or_refused_and_none_is_lost(tmp_path: Path) -> None:
    with (
        RunningStack.start(
            "tiny-turbo", tmp_path, ACESTAGE_QUEUE_MAXSIZE=str(QUEUE_MAX_COUNT), ACESTAGE_CONCURRENT_JOBS="4"
        ) as stack,
        RunningGateway.start(stack.target, tmp_path / "gateway") as gateway,
        httpx.Client(base_url=gateway.url(), timeout=60.0) as http,
    ):
        answers = asyncio.run(_all_clients(gateway.url()))
        accepted = [answer.json()["job_id"] for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert len(answers) == CLIENT_COUNT * JOBS_EACH
        assert len(set(accepted)) == len(accepted) >= QUEUE_MAX_COUNT
        assert refused
        for answer in refused:
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert f"accepted: up to {QUEUE_MAX_COUNT}" in answer.json()["detail"]

        def states() -> dict[str, str]:
            jobs = http.get("/v1/jobs", params={"limit": 200}).json()["jobs"]
            return {job["job_id"]: job["state"] for job in jobs}

        wait_until(lambda: set(states().values()) == {"succeeded"}, "all jobs are made", 120.0)
        assert states().keys() == set(accepted)
        _fill_queue(stack)


def _fill_queue(stack: RunningStack) -> None:
    """Over gRPC the queue is refused to the next job likewise, and those before it are made."""
    job_ids: list[str] = []

    def submit_all(client: Client) -> None:
        while True:
            job_ids.append(client.submit("piano", duration_s=10, step_count=20, seed=len(job_ids)))

    with stack.client() as client:
        with pytest.raises(QueueFullError, match=f"accepted: up to {QUEUE_MAX_COUNT}"):
            submit_all(client)
        assert len(job_ids) >= QUEUE_MAX_COUNT
        for seed, job_id in enumerate(job_ids):
            *_, song = client.attach(job_id)
            assert isinstance(song, Generation)
            assert song.tracks[0].seed == seed


async def _all_clients(url: str) -> list[httpx.Response]:
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(_client(url)) for _ in range(CLIENT_COUNT)]
    return [answer for client in clients for answer in client.result()]


async def _client(url: str) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=url, timeout=60.0) as http:
        return [await http.post("/v1/jobs", json=SONG) for _ in range(JOBS_EACH)]
