"""Cancelled, abandoned and crashed work: the right status, the device free again, the next song plays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from acestage import AsyncClient
from acestage.errors import AcestageError, ServiceUnreachableError, UnavailableError, WorkerCrashedError
from acestage.generation import (
    AudioChunk,
    Generation,
    GenerationEvent,
    JobQueued,
    StageProgress,
    StageStarted,
)
from acestage.local_stack import free_ports
from tests.integration.test_bad_requests import chunks_of, conditioning, denoise
from tests.running_stack import RunningStack, wait_until

LONG = {"duration_s": 300, "step_count": 200}
"""Minutes of work: a test that waited for its end would time out."""


def assert_next_song_plays(stack: RunningStack) -> None:
    with stack.client() as client:
        assert client.generate("piano", duration_s=10, seed=1).tracks[0].duration_s == 10


@pytest.mark.parametrize("moment", [JobQueued, StageStarted, StageProgress])
def test_a_cancelled_job_frees_the_device_at_once(turbo_stack: RunningStack, moment: type) -> None:
    async def scenario() -> None:
        async with AsyncClient(turbo_stack.target) as client:
            events = client.stream("piano", **LONG)  # type: ignore[arg-type]
            async for event in events:
                if isinstance(event, moment):
                    break
            await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(scenario(), 60))
    wait_until(lambda: turbo_stack.is_idle(), "the job is gone", 10)
    assert_next_song_plays(turbo_stack)


def test_a_job_cancelled_between_tiles_frees_the_device_at_once(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        events = client.stream("piano", duration_s=600, step_count=1)
        for event in events:
            if isinstance(event, AudioChunk):
                break
        events.close()  # type: ignore[attr-defined]
    wait_until(lambda: turbo_stack.is_idle(), "the job is gone", 10)
    assert_next_song_plays(turbo_stack)


def test_a_client_that_dies_takes_its_job_along(turbo_stack: RunningStack) -> None:
    code = (
        "import sys; from acestage import Client\n"
        "for event in Client(sys.argv[1]).stream('piano', duration_s=300, step_count=200):\n"
        "    print(type(event).__name__, flush=True)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", code, turbo_stack.target], stdout=subprocess.PIPE)
    assert client.stdout is not None
    for line in client.stdout:
        if b"StageProgress" in line:
            break
    client.send_signal(signal.SIGKILL)
    client.wait(10)
    client.stdout.close()
    wait_until(lambda: turbo_stack.is_idle(), "the job is gone", 10)
    assert_next_song_plays(turbo_stack)


def test_a_queued_job_that_is_cancelled_leaves_the_queue(turbo_stack: RunningStack) -> None:
    async def start(client: AsyncClient) -> asyncio.Task[Generation]:
        """A long job; returns once the orchestrator has queued it."""
        queued = asyncio.Event()

        def on_event(event: GenerationEvent) -> None:
            if isinstance(event, JobQueued):
                queued.set()

        job = asyncio.create_task(client.generate("piano", on_event=on_event, **LONG))  # type: ignore[arg-type]
        await queued.wait()
        return job

    async def scenario() -> None:
        async with AsyncClient(turbo_stack.target) as client:
            first, second = await start(client), await start(client)
            queue = (await client.status()).queue
            assert (queue.running_count, queue.queued_count) == (1, 1)
            for job in (second, first):
                job.cancel()
                await asyncio.wait([job])
                assert job.cancelled()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    wait_until(lambda: turbo_stack.is_idle(), "both jobs are gone", 10)


def generate_until_it_fails(stack: RunningStack, ready: threading.Event) -> AcestageError:
    with stack.client() as client, pytest.raises(AcestageError) as caught:
        client.generate(
            "piano",
            duration_s=300,
            step_count=200,
            on_event=lambda event: ready.set() if isinstance(event, StageProgress) else None,
        )
    return caught.value


def during_denoising(stack: RunningStack, action: str) -> AcestageError:
    """Runs a long job, does `action` to a process in the middle of denoising, returns the job's error."""
    ready = threading.Event()
    errors: list[AcestageError] = []
    job = threading.Thread(target=lambda: errors.append(generate_until_it_fails(stack, ready)))
    job.start()
    assert ready.wait(60)
    match action:
        case "kill worker":
            stack.worker("dit").kill()
        case "kill preload":
            stack.preload("dit").kill()
        case "kill template":
            stack.find("-m", "services.runtime.preload.template").kill()
        case "kill dit":
            stack.find("-m", "services.dit").kill()
        case "stop dit":
            stack.find("-m", "services.dit").terminate()
        case "kill orchestrator":
            stack.find("-m", "services.orchestrator").kill()
    job.join(60)
    assert not job.is_alive()
    return errors[0]


def test_a_killed_worker_is_named_and_the_next_song_plays(battered_stack: RunningStack) -> None:
    error = during_denoising(battered_stack, "kill worker")
    assert isinstance(error, WorkerCrashedError)
    assert "dit" in error.message
    assert "signal 9" in error.message
    wait_until(lambda: battered_stack.is_idle(), "nothing is held", 20)
    assert_next_song_plays(battered_stack)


def test_a_killed_preload_is_started_again(battered_stack: RunningStack) -> None:
    error = during_denoising(battered_stack, "kill preload")
    assert isinstance(error, WorkerCrashedError)
    wait_until(battered_stack.is_serving, "the stage serves again", 60)
    wait_until(lambda: battered_stack.is_idle(), "nothing is held", 20)
    assert_next_song_plays(battered_stack)


@pytest.mark.parametrize("action", ["kill dit", "stop dit", "kill orchestrator"])
def test_a_dead_service_is_started_again_and_leaves_nothing_behind(
    battered_stack: RunningStack, action: str
) -> None:
    error = during_denoising(battered_stack, action)
    assert isinstance(error, UnavailableError) or error.code.name == "CANCELLED", error
    wait_until(battered_stack.is_serving, "everything serves again", 60)
    wait_until(lambda: battered_stack.is_idle(), "nothing is held", 20)
    assert_next_song_plays(battered_stack)


def test_preloads_that_died_with_their_template_are_started_without_it(battered_stack: RunningStack) -> None:
    error = during_denoising(battered_stack, "kill template")
    assert isinstance(error, WorkerCrashedError)
    wait_until(battered_stack.is_serving, "all stages serve again", 60)
    wait_until(lambda: battered_stack.is_idle(), "nothing is held", 20)
    assert battered_stack.preload("vae").parent() == battered_stack.find("-m", "services.vae")
    assert_next_song_plays(battered_stack)


def test_a_stage_without_a_ledger_says_so(tmp_path: Path) -> None:
    ports = free_ports()
    command = [sys.executable, "-m", "services.dit", "--device=cpu", f"--port={ports['dit']}"]
    unreachable = {"ACESTAGE_RUN_DIR": str(tmp_path / "run"), "ACESTAGE_ORCHESTRATOR": "127.0.0.1:1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | unreachable)
    stack = RunningStack(process, ports, tmp_path / "log")
    try:
        wait_until(lambda: "ready: " in stack.log() or process.poll() is not None, "the stage is up", 60)
        with pytest.raises(ServiceUnreachableError, match=r"orchestrator at 127\.0\.0\.1:1"):
            denoise(stack, chunks_of(conditioning()))
        assert process.poll() is None
    finally:
        stack.stop()


def test_a_slow_listener_does_not_hold_the_device(turbo_stack: RunningStack) -> None:
    """A minute of audio is 23 MB: far more than gRPC buffers for a listener that does not read."""
    with turbo_stack.client() as slow:
        events = slow.stream("piano", duration_s=60, step_count=1, seed=1)
        for event in events:
            if isinstance(event, AudioChunk):
                break
        wait_until(lambda: turbo_stack.is_idle(), "the work is done though nobody listens", 120)
        assert_next_song_plays(turbo_stack)
        *_, generation = events
    assert generation.tracks[0].duration_s == 60  # type: ignore[union-attr]
