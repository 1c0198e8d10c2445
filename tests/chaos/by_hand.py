"""Services that are started one by one, each with a device of its own; their preloads have one template."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from acestage.local_stack import free_ports
from acestage.preload_template import PreloadTemplate
from acestage.settings import load_settings
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, Fault
from tests.chaos.chaos_stack import TTL_S
from tests.running_stack import THREADS, wait_until

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class OneStage:
    """A stage to start, and the size of its device."""

    stage: str
    device: str
    total_bytes: int
    checkpoint: Path
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ByHand:
    """Services that run.

    Attributes:
        run_dir: of all of them.
        orchestrator: its address.
        addresses: of the stages, by device.
    """

    run_dir: Path
    orchestrator: str
    addresses: Mapping[str, str]

    def fail(self, stage: OneStage, *faults: Fault) -> None:
        """From now on the device of `stage` has these faults and no others."""
        FakeDeviceSpec(stage.total_bytes, faults).write(self.run_dir, stage.device)


@contextlib.contextmanager
def started(folder: Path, *stages: OneStage) -> Iterator[ByHand]:
    """Starts an orchestrator and `stages`, and ends them."""
    run_dir = folder / "run"
    orchestrator = f"127.0.0.1:{free_ports()['orchestrator']}"
    environment = os.environ | {
        "ACESTAGE_RUN_DIR": str(run_dir),
        "ACESTAGE_LEASE_TTL": f"{TTL_S:g}",
        "ACESTAGE_THREADS": str(THREADS),
        "ACESTAGE_ORCHESTRATOR": orchestrator,
    }
    addresses = {}
    with asyncio.Runner() as runner, ExitStack() as stack:
        template = runner.run(PreloadTemplate.start(load_settings(), None))
        stack.callback(lambda: runner.run(template.end()))
        environment |= template.environment
        descriptor = template.descriptor
        logs = [_start(stack, folder, "orchestrator", orchestrator, (), environment, descriptor)]
        for stage in stages:
            FakeDeviceSpec(stage.total_bytes).write(run_dir, stage.device)
            addresses[stage.device] = f"127.0.0.1:{free_ports()[stage.stage]}"
            flags = (f"--device={stage.device}", f"--checkpoint={stage.checkpoint}", *stage.flags)
            address = addresses[stage.device]
            logs.append(_start(stack, folder, stage.stage, address, flags, environment, descriptor))
        for log, word in zip(logs, ["listening", *["ready: "] * len(stages)], strict=True):
            wait_until(lambda: word in log.read_text(), f"{log.name} says {word!r}", START_TIMEOUT_S)  # noqa: B023
        yield ByHand(run_dir, orchestrator, addresses)


def _start(
    stack: ExitStack,
    folder: Path,
    service: str,
    address: str,
    flags: tuple[str, ...],
    environment: Mapping[str, str],
    descriptor: int,
) -> Path:
    """Returns the log."""
    port = address.rpartition(":")[2]
    path = folder / f"{service}-{port}.log"
    log = stack.enter_context(path.open("wb"))
    command = [sys.executable, "-m", f"services.{service}", f"--port={port}", *flags]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, pass_fds=[descriptor])
    stack.callback(_end, process)
    return path


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    finally:
        process.kill()
