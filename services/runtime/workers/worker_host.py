"""Keeps a stage's preload process alive, and forks workers from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from acestage.errors import WorkerCrashedError
from acestage.generation import ProcessMemory
from services.runtime.devices.device_memory import process_device_bytes
from services.runtime.preload.client import PreloadClient
from services.runtime.preload.facts import PreloadFacts
from services.runtime.processes.finishing import finish
from services.runtime.processes.process_memory import measure
from services.runtime.stage_config import StageConfig
from services.runtime.workers.worker_handle import WorkerHandle

log = logging.getLogger(__name__)

RESTART_DELAY_S = 1.0

OnReadiness = Callable[[PreloadFacts | None], Awaitable[None]]


class WorkerHost:
    """The preload of a stage, started again when it dies.

    Use as `async with await WorkerHost.start(…) as host`, from the main thread and before gRPC starts. `run`
    must run for as long as the host is used.
    """

    def __init__(self, config: StageConfig, preload: PreloadClient, on_readiness: OnReadiness) -> None:
        """Use `start` instead."""
        self._config = config
        self._preload = preload
        self._on_readiness = on_readiness
        self._facts: asyncio.Future[PreloadFacts] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, config: StageConfig, on_readiness: OnReadiness) -> WorkerHost:
        """Starts the preload, which goes on loading.

        Args:
            config: what the stage runs.
            on_readiness: hears what the preload said when workers can be forked, and None when they no longer
                can.
        """
        return cls(config, await PreloadClient.start(config), on_readiness)

    async def __aenter__(self) -> WorkerHost:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._preload.kill()
        await finish(self._preload.wait())

    async def run(self) -> None:
        """Watches the preload and starts it again when it dies; returns never.

        Raises:
            AcestageError: why the preload could not load, for example a damaged checkpoint.
            OSError: it could not be started again.
        """
        was_ready = False
        while True:
            announcement = asyncio.create_task(self._announce())
            error = await self._preload.watch()
            with contextlib.suppress(type(error)):
                await announcement
                was_ready = True
            if not was_ready and not self._preload.died_with_template:
                self._facts.set_exception(error)
                self._facts.exception()  # nobody may be waiting
                raise error
            self._forget_facts()
            if not isinstance(error, WorkerCrashedError):
                # It says why it cannot load: so do jobs, until it can again.
                self._facts.set_exception(error)
                self._facts.exception()
            await self._on_readiness(None)
            log.error("%s; starting it again", error)
            await asyncio.sleep(RESTART_DELAY_S)
            self._preload = await PreloadClient.start(self._config)

    async def ready(self) -> PreloadFacts:
        """Waits for a preload that can fork; raises its error where it could not load."""
        return await asyncio.shield(self._facts)

    def facts(self) -> PreloadFacts | None:
        """What the preload said, or None while it is not ready."""
        return self._facts.result() if self._facts.done() and self._facts.exception() is None else None

    def load_error(self) -> BaseException | None:
        """Why the preload could not load; None where it did, or may yet."""
        return self._facts.exception() if self._facts.done() else None

    async def fork(self) -> WorkerHandle:
        """A new worker, which waits for its request.

        Raises:
            WorkerCrashedError: the preload ended, or did not fork in time.
        """
        return await self._preload.fork()

    def memory(self) -> list[ProcessMemory]:
        """Memory of this service and of its preload. Blocks for some milliseconds, as `measure` does."""
        stage = self._config.stage
        found = [measure(f"{stage}/service"), measure(f"{stage}/preload", self._preload.pid)]
        return [memory for memory in found if memory is not None]

    def worker_memory(self) -> list[ProcessMemory]:
        """Memory of the workers that live, that on the device included. Blocks as `memory` does."""
        pids = self._preload.worker_pids
        device_bytes = process_device_bytes(self._config.device) if pids else {}
        found = [measure(f"{self._config.stage}/worker", pid, device_bytes=device_bytes) for pid in pids]
        return [memory for memory in found if memory is not None]

    def _forget_facts(self) -> None:
        if self._facts.done():
            self._facts = asyncio.get_running_loop().create_future()

    async def _announce(self) -> None:
        facts = await asyncio.shield(self._preload.facts)
        self._forget_facts()
        self._facts.set_result(facts)
        await self._on_readiness(facts)
