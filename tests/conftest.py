"""Fixtures that many tests share: checkpoints with random weights, and running services."""

# ruff: noqa: E402
from __future__ import annotations

import gc

# Two fifths of the time of the imports would go into looking for garbage.
gc.disable()

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from acestage import local_stack
from scripts.random_checkpoint import write_checkpoint
from tests.running_stack import THREADS, RunningStack

# Other tests run beside: how long an example takes says nothing.
settings.register_profile("acestage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("acestage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts a file of `tests/chaos`, where much is waited for, before every second other one.

    So one of three processes waits at a time, and the others have the CPUs.
    """
    files: defaultdict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    waiting = [path for path in files if path.parent.name == "chaos"]
    computing = [path for path in files if path not in waiting]
    order = []
    for first in range(0, max(len(computing), 2 * len(waiting)), 2):
        order += [*waiting[first // 2 : first // 2 + 1], *computing[first : first + 2]]
    items[:] = [item for path in order for item in files[path]]


def pytest_collection_finish() -> None:
    """Modules stay: nobody need look through them again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Tests run side by side: threads of one that wait for those of another cost many times the work."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """A shell that runs tests in the background has them ignore Ctrl-C, and so would all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _ports_of_its_own() -> Iterator[None]:
    """Two processes would now and then choose one port, free for both until one of them has it.

    The commands that they run still choose among all ports.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    index = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_stack, "_FREE_PORTS", local_stack._FREE_PORTS[index::count])
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One folder for all processes of a run: the first service to start measures for the others."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # which has a folder of its own in that of the run
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACESTAGE_CACHE_DIR", str(folder / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_warmup() -> Iterator[None]:
    """What is compared with the engines in this process must compute as they do, all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACESTAGE_WARMUP", "false")
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints by "variant/layout"; a variant has the same weights in both layouts."""
    root = tmp_path_factory.mktemp("checkpoints")
    found: dict[str, Path] = {}
    for layout in ("diffusers", "original"):
        for variant in ("turbo", "base"):
            folder = root / f"{variant}-{layout}"
            found[f"{variant}/{layout}"] = write_checkpoint(folder, variant=variant, layout=layout, seed=11)
        xl = root / f"xl-{layout}"
        found[f"xl/{layout}"] = write_checkpoint(xl, size="tiny-xl", variant="base", layout=layout, seed=12)
    return found


@pytest.fixture(scope="session")
def turbo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`acestage up` with the embedded model, shared by tests that leave it as they found it."""
    with RunningStack.start("tiny-turbo", tmp_path_factory.mktemp("turbo-stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def battered_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`acestage up` for tests that kill parts of it, and check that all of it recovers."""
    with RunningStack.start("tiny-turbo", tmp_path_factory.mktemp("battered-stack")) as stack:
        yield stack
