"""Services that run for a measurement."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from acestage import Access, AsyncClient
from acestage.errors import AcestageError
from acestage.generation import ProcessMemory
from acestage.local_stack import LocalStack, free_ports, scheme
from acestage.settings import EMBEDDED_CHECKPOINT, load_settings

READY_TIMEOUT_S = 600.0

SMALL_DEVICE_GB = 4.0
"""A device of this size has one holder at a time."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What runs.

    Attributes:
        checkpoint: a folder, or a name.
        concurrent_job_count: as `ACESTAGE_CONCURRENT_JOBS`; None takes the default.
        max_vram_gb: size of a simulated device; None takes the whole machine.
        max_hold_s: as `ACESTAGE_MAX_HOLD`; None takes the default.
        threads: of a worker; None takes the default.
        queue_max_count: as `ACESTAGE_QUEUE_MAXSIZE`; None takes the default.
        opens_rest: whether the REST interface is opened.
    """

    checkpoint: str = EMBEDDED_CHECKPOINT
    concurrent_job_count: int | None = None
    max_vram_gb: float | None = None
    max_hold_s: float | None = None
    threads: int | None = None
    queue_max_count: int | None = None
    opens_rest: bool = False

    def env_lines(self) -> list[str]:
        """The settings that services read from their `.env` file."""
        values = {
            "MAX_CUDA_VRAM": self.max_vram_gb,
            "ACESTAGE_MAX_HOLD": self.max_hold_s,
            "ACESTAGE_QUEUE_MAXSIZE": self.queue_max_count,
        }
        return [f"{name}={value:g}" for name, value in values.items() if value is not None]


class Stack:
    """Services that serve.

    Attributes:
        client: of their orchestrator.
        ready_s: from the start of the first process until all served.
        rest_url: where the REST interface answers, if it is open.
    """

    def __init__(self, client: AsyncClient, ready_s: float, rest_url: str) -> None:
        self.client = client
        self.ready_s = ready_s
        self.rest_url = rest_url

    @classmethod
    @asynccontextmanager
    async def start(cls, setup: Setup) -> AsyncIterator[Stack]:
        """Starts the services and ends them; where that fails, their log is printed."""
        with tempfile.TemporaryDirectory(prefix="acestage-bench-") as name:
            folder = Path(name)
            env_file = folder / "env"
            env_file.write_text("\n".join(setup.env_lines()))
            settings = load_settings(
                env_file,
                checkpoint=setup.checkpoint,
                device="cpu",
                run_dir=folder / "run",
                concurrent_job_count=setup.concurrent_job_count,
                max_vram_gb=setup.max_vram_gb,
                threads=setup.threads,
                doors="rest",
                rest_port=_free_port(),
                output_dir=folder / "outputs",
            )
            log_path = folder / "services.log"
            try:
                with log_path.open("wb") as log:
                    services = LocalStack(
                        settings,
                        free_ports(),
                        env_file=env_file,
                        log_file=log,
                        ready_timeout_s=READY_TIMEOUT_S,
                        opens_doors=setup.opens_rest,
                    )
                    begun = time.monotonic()
                    async with services, AsyncClient(services.target, Access.of(settings)) as client:
                        ready_s = time.monotonic() - begun
                        yield cls(client, ready_s, f"{scheme(settings)}://127.0.0.1:{settings.rest_port}")
            except (AcestageError, AssertionError):
                print(log_path.read_text(errors="replace"))
                raise

    async def memories(self) -> list[ProcessMemory]:
        """The memory of everything that lives, under names such as "dit/worker"."""
        status = await self.client.status()
        return [status.orchestrator, *(process for stage in status.stages for process in stage.processes)]

    async def processes(self) -> dict[str, int]:
        """The process ids of everything that lives, by the same names."""
        return {process.name: process.pid for process in await self.memories()}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_worker(name: str) -> bool:
    """Whether the process of this name has its memory on the device."""
    return name.endswith("/worker")
