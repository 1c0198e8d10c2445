"""How soon the REST interface answers while many clients order songs: `python -m bench.gateway`.

Fifty clients send four orders each, as fast as they are answered; meanwhile, and before, somebody else asks
for `/health` and for a list of jobs again and again. "ordering" lasts until the last order is answered,
"working" until the last song that was accepted is made.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import httpx
import numpy as np

from acestage.settings import EMBEDDED_CHECKPOINT
from bench.results import print_table, write_json
from bench.stack import Setup, Stack

IDLE_S = 3.0
PAUSE_S = 0.02
"""Between two questions of the one who asks meanwhile."""
ASKED = ("/health", "/v1/jobs?limit=50")


@dataclass
class Latencies:
    """Answer times in ms, by what went on and by what was asked for; how orders were answered."""

    times_ms: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    answers: Counter[int] = field(default_factory=Counter)
    phase: str = "idle"

    def add(self, asked: str, started: float) -> None:
        self.times_ms[self.phase][asked].append((time.perf_counter() - started) * 1000)


async def run(setup: Setup, client_count: int, jobs_each: int) -> Latencies:
    """Measures services of their own."""
    found = Latencies()
    async with Stack.start(setup) as stack, httpx.AsyncClient(base_url=stack.rest_url, timeout=60) as http:
        asking = asyncio.create_task(_ask(http, found))
        await asyncio.sleep(IDLE_S)
        found.phase = "ordering"
        async with asyncio.TaskGroup() as clients:
            for _ in range(client_count):
                clients.create_task(_order(stack.rest_url, jobs_each, found))
        found.phase = "working"
        await _until_made(http)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking  # its own failure is one of the measurement
    return found


async def _ask(http: httpx.AsyncClient, found: Latencies) -> None:
    while True:
        for path in ASKED:
            started = time.perf_counter()
            (await http.get(path)).raise_for_status()
            found.add(path, started)
            await asyncio.sleep(PAUSE_S)


async def _order(url: str, count: int, found: Latencies) -> None:
    song = {"prompt": "warm piano", "audio_duration": 10, "inference_steps": 1}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(count):
            started = time.perf_counter()
            answer = await http.post("/v1/jobs", json=song)
            found.add("POST /v1/jobs", started)
            found.answers[answer.status_code] += 1


async def _until_made(http: httpx.AsyncClient) -> None:
    while True:
        jobs = (await http.get("/v1/jobs", params={"limit": 200})).json()["jobs"]
        if all(job["state"] not in ("queued", "running") for job in jobs):
            return
        await asyncio.sleep(0.5)


def show(found: Latencies) -> None:
    """Prints a row for what was asked for in each phase."""
    rows = []
    for phase, by_path in found.times_ms.items():
        for asked, times_ms in by_path.items():
            figures = (np.median(times_ms), np.percentile(times_ms, 95), max(times_ms))
            rows.append([phase, asked, str(len(times_ms)), *(f"{figure:.1f}" for figure in figures)])
    print_table(("phase", "asked for", "n", "median ms", "95 % ms", "most ms"), rows)
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(found.answers.items()))
    print(f"orders answered: {answers}")


async def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=4, help="of each client")
    parser.add_argument("--queue", type=int, default=30, help="songs that may wait")
    parser.add_argument("--threads", type=int, help="of a worker")
    given = parser.parse_args()
    setup = Setup(
        given.checkpoint,
        concurrent_job_count=4,
        threads=given.threads,
        queue_max_count=given.queue,
        opens_rest=True,
    )
    found = await run(setup, given.clients, given.jobs)
    write_json(
        "gateway",
        {"load_average": os.getloadavg()[0], "times_ms": found.times_ms, "answers": dict(found.answers)},
    )
    show(found)


if __name__ == "__main__":
    asyncio.run(main())
