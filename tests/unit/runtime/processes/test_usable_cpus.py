"""Threads are no more than the cores, the affinity and the container's limit of time allow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from services.runtime.processes import usable_cpus
from services.runtime.processes.usable_cpus import core_count, cpu_limit, usable_core_count


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def siblings(tmp_path: Path) -> Path:
    """Four cores with two threads each: CPU n and n + 4 share one."""
    for cpu in range(8):
        write(tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    return tmp_path


@pytest.mark.parametrize(("cpus", "count"), [(range(8), 4), ((0, 1, 4), 2), ((3, 7), 1), ((5,), 1)])
def test_two_threads_of_a_core_count_once(siblings: Path, cpus: tuple[int, ...], count: int) -> None:
    assert core_count(set(cpus), siblings) == count


def test_where_the_kernel_tells_no_cores_every_cpu_is_one(tmp_path: Path) -> None:
    assert core_count({0, 1, 5}, tmp_path) == 3


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # in a container, version 2
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ("0::/a\n", {"b/cpu.max": "50000 100000"}, math.inf),
        ("2:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        ("2:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        # The group has the host's name for it, which the container does not see.
        ("2:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "10000", "cpu/cpu.cfs_period_us": "20000"}, 0.5),
        ("0::/../b\n", {"cpu.max": "50000 100000"}, 0.5),  # outside of what the container sees
        ("0::\n", {"cpu.max": "50000 100000"}, 0.5),
        ("?\n0:\n", {"cpu.max": "max 100000"}, math.inf),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "1", "cpu/a/cpu.cfs_period_us": "2"}, math.inf),
    ],
)
def test_the_least_limit_of_all_groups_around_holds(
    tmp_path: Path, own: str, files: dict[str, str], limit: float
) -> None:
    write(tmp_path / "own", own)
    for name, text in files.items():
        write(tmp_path / "root" / name, text)
    assert cpu_limit(tmp_path / "own", tmp_path / "root") == limit


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "own", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("limit", "count"), [(math.inf, 3), (8.0, 3), (2.0, 2), (1.2, 2), (1.0, 1), (0.1, 1)]
)
def test_there_is_a_thread_for_each_core_that_can_be_kept_busy(
    limit: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usable_cpus, "core_count", lambda cpus: 3)
    monkeypatch.setattr(usable_cpus, "cpu_limit", lambda: limit)
    assert usable_core_count() == count
