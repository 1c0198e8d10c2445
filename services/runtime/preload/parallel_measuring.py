"""Several measurements at once, each in a process of its own: one keeps a CPU busy for seconds."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from acestage.errors import InternalError
from acestage.planning import StageMemory
from acestage.protos.stage.v1 import stage_pb2
from services.runtime.memory.measurements import Measurements
from services.runtime.processes.parent_death import die_with_parent
from services.runtime.processes.usable_cpus import usable_core_count

log = logging.getLogger(__name__)

Measurement = Callable[[], StageMemory]


def recall_all(wanted: Mapping[str, Measurement], kept: Measurements) -> dict[str, StageMemory]:
    """The results of `wanted` by their digests: as they are kept, else measured by `measure_all` and kept.

    Raises:
        InternalError: a measurement failed; the log says why.
    """
    found = {digest: memory for digest in wanted if (memory := kept.find(digest)) is not None}
    missing = [digest for digest in wanted if digest not in found]
    measured = dict(zip(missing, measure_all([wanted[digest] for digest in missing]), strict=True))
    for digest, memory in measured.items():
        kept.keep(digest, memory)
    return found | measured


def measure_all(measurements: Sequence[Measurement]) -> list[StageMemory]:
    """The results of `measurements`, in order. Forks, so no thread may run.

    Even for a single one: fake tensors look for a CUDA device, so this process could fork no worker for it.

    Raises:
        InternalError: one of them failed; the log says why.
    """
    at_once = usable_core_count()
    found: list[StageMemory] = []
    for start in range(0, len(measurements), at_once):
        children = [_start(measurement) for measurement in measurements[start : start + at_once]]
        found.extend(_result(pid, result) for pid, result in children)
    return found


def _start(measurement: Measurement) -> tuple[int, BinaryIO]:
    """A child that measures, and what it will write."""
    read_end, write_end = os.pipe()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _measure(measurement, write_end, parent_pid)
    os.close(write_end)
    return pid, os.fdopen(read_end, "rb")


def _measure(measurement: Measurement, write_end: int, parent_pid: int) -> None:
    try:
        die_with_parent(parent_pid, signal.SIGKILL)
        with os.fdopen(write_end, "wb") as result:
            result.write(measurement().to_pb().SerializeToString())
    except BaseException:  # whatever it is, nothing of the parent's may run here
        log.exception("a measurement failed")
        os._exit(1)
    os._exit(0)


def _result(pid: int, result: BinaryIO) -> StageMemory:
    with result:
        data = result.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise InternalError(f"a model could not be measured: the process ended with exit code {code}")
    return StageMemory.from_pb(stage_pb2.StageMemory.FromString(data))
