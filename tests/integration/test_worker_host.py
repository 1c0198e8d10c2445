"""A real preload and real workers: forks, deaths, and what a service hears of them.

Most preloads are forked from a template, as in a stack; it has imported what takes seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from acestage.checkpoints.opening import EMBEDDED_PATH
from acestage.errors import CheckpointError, FailedPreconditionError, WorkerCrashedError
from acestage.preload_template import TEMPLATE_FD, PreloadTemplate
from acestage.settings import load_settings
from services.runtime.devices.device_memory import worker_pids
from services.runtime.preload import client, starting
from services.runtime.preload.facts import PreloadFacts
from services.runtime.stage_config import StageConfig
from services.runtime.workers import worker_host
from services.runtime.workers.worker_host import WorkerHost


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 120))


def config(tmp_path: Path, **changes: Any) -> StageConfig:
    fields = {
        "stage": "vae",
        "checkpoints": ("tiny-turbo",),
        "checkpoints_dir": "checkpoints",
        "variant": None,
        "device": "cpu",
        "dtype": "auto",
        "run_dir": str(tmp_path),
        "cache_dir": os.environ["ACESTAGE_CACHE_DIR"],
        "log_level": "INFO",
    }
    return StageConfig(**fields | changes)


class Readiness:
    """What the host announced."""

    def __init__(self) -> None:
        self.is_ready = asyncio.Event()
        self.is_lost = asyncio.Event()

    async def change(self, facts: PreloadFacts | None) -> None:
        (self.is_lost if facts is None else self.is_ready).set()


@pytest.fixture(scope="module")
def shared_template() -> Iterator[PreloadTemplate]:
    """For tests that leave it alone."""
    with asyncio.Runner() as runner:
        template = runner.run(PreloadTemplate.start(load_settings(), None))
        yield template
        runner.run(template.end())


@pytest.fixture
def _forked(shared_template: PreloadTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preloads are forked, instead of started by themselves."""
    monkeypatch.setenv(TEMPLATE_FD, str(shared_template.descriptor))


@contextlib.asynccontextmanager
async def running_host(tmp_path: Path, **changes: Any) -> AsyncIterator[tuple[WorkerHost, Readiness]]:
    readiness = Readiness()
    async with await WorkerHost.start(config(tmp_path, **changes), readiness.change) as host:
        watching = asyncio.create_task(host.run())
        await readiness.is_ready.wait()
        yield host, readiness
        watching.cancel()
        await asyncio.wait([watching])


@pytest.mark.usefixtures("_forked")
def test_a_worker_ends_when_it_is_stopped_or_killed_and_its_exit_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_host(tmp_path) as (host, _):
            first, second = await host.fork(), await host.fork()
            assert first.pid != second.pid
            second.kill()
            assert await second.receive() is None
            assert await second.exit_code() == -signal.SIGKILL
            assert not psutil.pid_exists(second.pid)
            await second.stop(grace_s=0)
            await first.stop(grace_s=10)
            assert await first.exit_code() == 0

    run(scenario())


@pytest.mark.usefixtures("_forked")
def test_workers_are_measured_and_found_while_they_live(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_host(tmp_path) as (host, _):
            assert host.worker_memory() == []
            names = {memory.name: memory for memory in host.memory()}
            assert set(names) == {"vae/service", "vae/preload"}
            worker = await host.fork()
            (memory,) = host.worker_memory()
            assert (memory.name, memory.pid, memory.device_bytes) == ("vae/worker", worker.pid, 0)
            assert 0 < memory.anonymous_bytes < memory.rss_bytes
            assert worker.pid in set(worker_pids("cpu"))
            await worker.stop(grace_s=0)
            assert host.worker_memory() == []
            assert worker.pid not in set(worker_pids("cpu"))

    run(scenario())


@pytest.mark.usefixtures("_forked")
def test_a_stopped_worker_that_reads_nothing_is_killed_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_host(tmp_path) as (host, _):
            worker = await host.fork()
            os.kill(worker.pid, signal.SIGSTOP)
            await asyncio.wait_for(worker.stop(grace_s=0.1), 10)
            assert not psutil.pid_exists(worker.pid)

    run(scenario())


@pytest.mark.usefixtures("_forked")
def test_cancelled_forks_leave_no_worker_and_do_not_confuse_later_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_host(tmp_path) as (host, _):
            for _ in range(5):
                fork = asyncio.create_task(host.fork())
                await asyncio.sleep(0)
                fork.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await fork).stop(grace_s=0)
            worker = await host.fork()
            worker.kill()  # not told to stop before, or it might be gone by itself
            assert await worker.exit_code() == -signal.SIGKILL
            await worker.stop(grace_s=0)
            assert not psutil.pid_exists(worker.pid)

    run(scenario())


def test_workers_die_with_their_preload_and_a_new_one_takes_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_host(tmp_path) as (host, readiness):
            worker = await host.fork()
            preload = psutil.Process(worker.pid).parent()
            assert preload is not None
            readiness.is_ready.clear()
            preload.kill()
            assert await worker.exit_code() == -signal.SIGKILL
            await worker.stop(grace_s=0)
            await readiness.is_lost.wait()
            await readiness.is_ready.wait()
            later = await host.fork()
            assert psutil.Process(later.pid).ppid() != preload.pid
            await later.stop(grace_s=0)

    run(scenario())


@contextlib.asynccontextmanager
async def stopped_preload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[WorkerHost, Readiness, int]]:
    """A host, and the preload of it that does not answer."""
    monkeypatch.setattr(client, "FORK_TIMEOUT_S", 0.3)
    async with running_host(tmp_path) as (host, readiness):
        stopped = host.memory()[1].pid
        os.kill(stopped, signal.SIGSTOP)
        readiness.is_ready.clear()
        yield host, readiness, stopped


@pytest.mark.usefixtures("_forked")
def test_a_preload_that_does_not_answer_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with stopped_preload(tmp_path, monkeypatch) as (host, readiness, stopped):
            with pytest.raises(WorkerCrashedError, match="does not fork"):
                await host.fork()
            await readiness.is_ready.wait()
            worker = await host.fork()
            assert psutil.Process(worker.pid).ppid() != stopped
            await worker.stop(grace_s=0)

    run(scenario())


@pytest.mark.usefixtures("_forked")
def test_a_preload_that_does_not_answer_is_replaced_though_nobody_waits_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with stopped_preload(tmp_path, monkeypatch) as (host, readiness, stopped):
            forking = asyncio.create_task(host.fork())
            await asyncio.sleep(0)  # it has asked
            forking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forking
            await readiness.is_ready.wait()  # its answer would be taken for that to the next fork
            assert host.memory()[1].pid != stopped

    run(scenario())


def templates() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if "preload.template" in " ".join(child.cmdline())}


@contextlib.asynccontextmanager
async def running_template(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[psutil.Process]:
    """One that hosts fork their preloads from, for a test that does something to it."""
    others = templates()
    template = await PreloadTemplate.start(load_settings(), None)
    try:
        monkeypatch.setenv(TEMPLATE_FD, str(template.descriptor))
        (process,) = templates() - others
        yield process
    finally:
        await template.end()


@pytest.mark.usefixtures("_forked")
def test_a_preload_of_a_template_is_forked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_host(tmp_path) as (host, readiness):
            preload = psutil.Process(host.memory()[1].pid)
            template = preload.parent()
            assert template in templates()
            assert preload.cmdline()[1:3] == ["-m", "services.runtime.preload"]
            readiness.is_ready.clear()
            preload.kill()
            await readiness.is_ready.wait()
            worker = await host.fork()
            assert psutil.Process(worker.pid).parents()[1] == template
            await worker.stop(grace_s=0)

    run(scenario())


def test_a_template_that_dies_while_models_are_mapped_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        readiness = Readiness()
        async with (
            running_template(monkeypatch) as template,
            await WorkerHost.start(config(tmp_path), readiness.change) as host,
        ):
            template.kill()
            watching = asyncio.create_task(host.run())
            await readiness.is_ready.wait()
            assert psutil.Process(host.memory()[1].pid).ppid() == os.getpid()
            watching.cancel()
            await asyncio.wait([watching])

    run(scenario())


def test_a_template_that_says_nothing_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "TEMPLATE_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with running_template(monkeypatch) as template:
            template.suspend()
            async with running_host(tmp_path) as (host, _):
                assert psutil.Process(host.memory()[1].pid).ppid() == os.getpid()

    run(scenario())


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"checkpoints": ("no-such-model",)}, CheckpointError, "no-such-model"),
        pytest.param(
            {"device": "cuda:0"},
            FailedPreconditionError,
            "built without CUDA",
            marks=pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA"),
        ),
    ],
)
def test_what_cannot_be_loaded_is_told(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    async def scenario() -> None:
        readiness = Readiness()
        async with await WorkerHost.start(config(tmp_path, **changes), readiness.change) as host:
            with pytest.raises(error, match=words):
                await host.run()
            assert host.facts() is None
            assert not readiness.is_ready.is_set()

    run(scenario())


@pytest.mark.usefixtures("_forked")
def test_what_cannot_be_loaded_again_is_told_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_host, "RESTART_DELAY_S", 0.1)
    checkpoint = tmp_path / "model"
    shutil.copytree(EMBEDDED_PATH, checkpoint)
    weights = checkpoint / "vae" / "diffusion_pytorch_model.safetensors"

    async def until_told(host: WorkerHost) -> CheckpointError:
        while True:
            try:
                await host.ready()
            except CheckpointError as error:
                return error
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with running_host(tmp_path, checkpoints=(str(checkpoint),)) as (host, readiness):
            weights.rename(tmp_path / "weights")
            readiness.is_ready.clear()
            os.kill(host.memory()[1].pid, signal.SIGKILL)
            assert "vae" in str(await until_told(host))
            assert host.facts() is None
            (tmp_path / "weights").rename(weights)
            await readiness.is_ready.wait()
            assert await host.ready() == host.facts()

    run(scenario())
