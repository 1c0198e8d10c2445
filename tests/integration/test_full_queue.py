"""A queue that is full refuses the next job, says its limit, and loses none of those that it took.

On a CPU one job is in work, unless more are asked for: so the second one here waits.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from acestage.errors import QueueFullError
from acestage.generation import GenerationEvent, JobQueued
from tests.running_stack import RunningStack


def test_a_full_queue_refuses_the_next_job_and_finishes_the_others(tmp_path: Path) -> None:
    seeds: list[int] = []

    def generate(stack: RunningStack, seed: int, queued: threading.Event) -> None:
        def on_event(event: GenerationEvent) -> None:
            if isinstance(event, JobQueued):
                queued.set()

        with stack.client() as client:
            song = client.generate("piano", duration_s=60, step_count=100, seed=seed, on_event=on_event)
        seeds.append(song.tracks[0].seed)

    with RunningStack.start("tiny-turbo", tmp_path, ACESTEP_QUEUE_MAXSIZE="1") as stack:
        jobs = []
        for seed in (1, 2):
            queued = threading.Event()
            jobs.append(threading.Thread(target=generate, args=(stack, seed, queued)))
            jobs[-1].start()
            assert queued.wait(30)
        with stack.client() as client, pytest.raises(QueueFullError, match="accepted: up to 1"):
            client.generate("piano", duration_s=10)
        for job in jobs:
            job.join(120)
    assert seeds == [1, 2]
