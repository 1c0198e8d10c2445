"""How many CPUs this process may keep busy: what its affinity and its container leave it. No torch."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath

_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


def usable_core_count() -> int:
    """Physical cores that this process may use, but no more than its limit of CPU time, rounded up.

    Matrix products fill a core with one thread: a second one on it would wait for the same units. Threads far
    beyond a limit, as `docker run --cpus` sets it, spend it early in each period and then all stand still.
    """
    return math.ceil(min(core_count(os.sched_getaffinity(0)), cpu_limit()))


def core_count(cpus: Set[int], folder: Path = _CPUS) -> int:
    """Physical cores of these CPUs, as the kernel numbers them; where it tells none, every CPU is one.

    `psutil.cpu_count` counts those of the whole machine, whatever the affinity.
    """
    cores = set()
    for cpu in cpus:
        try:
            cores.add((folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def cpu_limit(own: Path = _CGROUP, root: Path = _CGROUPS) -> float:
    """CPUs whose time the control groups around this process allow, such as 1.5; infinite without a limit.

    Args:
        own: names our groups (cgroups(7)).
        root: has them as folders, in version 1 under the name of their controller.
    """
    return min(_limits(own, root), default=math.inf)


def _limits(own: Path, root: Path) -> Iterator[float]:
    for folder in _groups(own, root):
        # Without a limit the file says "max", and the outermost group has none.
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with contextlib.suppress(OSError, ValueError):
            quota_us = int((folder / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:  # -1 is no limit
                yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _groups(own: Path, root: Path) -> Iterator[Path]:
    """Folders of our groups and of all around them: a limit on any of them holds for us."""
    try:
        lines = own.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, name = named.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        group = PurePosixPath(name.lstrip("/"))
        for part in (group, *group.parents):
            yield top / part
