"""One preload process, seen from the service that started it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket

from acestage import errors
from services.runtime.preload.facts import PreloadFacts
from services.runtime.preload.protocol import FORK
from services.runtime.preload.starting import ForkedPreload, PreloadProcess, start_preload, until_dead
from services.runtime.processes.finishing import finish
from services.runtime.stage_config import StageConfig
from services.runtime.workers.messages import receive_async, to_error
from services.runtime.workers.worker_handle import EXIT_TIMEOUT_S, WorkerHandle

FORK_TIMEOUT_S = 30.0


class PreloadClient:
    """A preload process from its start to its end. Start it from the main thread: it dies with this one."""

    def __init__(
        self, stage: str, process: PreloadProcess, control: socket.socket, end: socket.socket
    ) -> None:
        """Use `start` instead."""
        self.pid = process.pid
        self.facts: asyncio.Future[PreloadFacts] = asyncio.get_running_loop().create_future()
        self._stage = stage
        self._process = process
        self._control = control
        self._end = end
        self._fork_lock = asyncio.Lock()
        self._forked: asyncio.Future[tuple[int, asyncio.Future[int]]] | None = None
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, config: StageConfig) -> PreloadClient:
        """Starts the process; `watch` must run from then on."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await start_preload(config, theirs)
            except BaseException:
                ours.close()
                raise
        return cls(config.stage, process, ours.dup(), ours)

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The workers that live, as far as the process has said."""
        return tuple(self._exits)

    @property
    def died_with_template(self) -> bool:
        """Whether the process has died because the one that it was forked from did."""
        return isinstance(self._process, ForkedPreload) and self._process.is_orphan

    async def watch(self) -> errors.AcestageError:
        """Handles the process's messages until it ends; returns why it ended."""
        reader, writer = await asyncio.open_connection(sock=self._end)
        try:
            error = await self._handle_messages(reader)
            code = await self._process.wait()
        finally:
            writer.transport.abort()
            self._control.close()
        error = error or self.crashed(f"its preload process ended with exit code {code}")
        for future in (self.facts, self._forked):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting
        for pid, exited in self._exits.items():
            farewell = asyncio.create_task(_resolve_once_dead(pid, exited))
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)
        return error

    async def fork(self) -> WorkerHandle:
        """A new worker, which waits for its request.

        Raises:
            WorkerCrashedError: the process ended, or did not fork in time.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            async with self._fork_lock:
                self._forked = asyncio.get_running_loop().create_future()
                try:
                    socket.send_fds(self._control, [FORK], [theirs.fileno()])
                    # Not to be cut short: the next caller would take this answer for its own.
                    pid, exited = await finish(asyncio.wait_for(self._forked, FORK_TIMEOUT_S))
                except (OSError, TimeoutError) as error:
                    ours.close()
                    self.kill()  # its answer, should it come late, would be taken for that to the next fork
                    raise self.crashed("its preload process does not fork") from error
                except (asyncio.CancelledError, errors.AcestageError):
                    ours.close()  # a worker without a request ends with its socket
                    if self._forked.cancelled():  # it did not fork in time, either
                        self.kill()
                    raise
        reader, writer = await asyncio.open_connection(sock=ours)
        return WorkerHandle(pid, reader, writer, exited)

    def kill(self) -> None:
        """Ends the process, and with it all of its workers."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> None:
        """Returns once the process is dead."""
        await self._process.wait()

    def crashed(self, what: str) -> errors.WorkerCrashedError:
        return errors.WorkerCrashedError(
            f"{self._stage}: {what}", metadata={"stage": self._stage}, retry_delay_s=1.0
        )

    async def _handle_messages(self, reader: asyncio.StreamReader) -> errors.AcestageError | None:
        """Returns the error that the process sent, or None once it ended without one."""
        while (message := await receive_async(reader)) is not None:
            fields = message.fields
            if message.kind == "ready":
                self.facts.set_result(PreloadFacts.from_fields(fields))
            elif message.kind == "forked":
                exited = self._exits[fields["pid"]] = asyncio.get_running_loop().create_future()
                if self._forked is not None and not self._forked.done():
                    self._forked.set_result((fields["pid"], exited))
            elif message.kind == "exited":
                self._exits.pop(fields["pid"]).set_result(fields["code"])
            elif message.kind == "error":
                return to_error(message)
        return None


async def _resolve_once_dead(pid: int, exited: asyncio.Future[int]) -> None:
    """The kernel kills workers with their preload, but not at once, and nobody is left who would tell."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * EXIT_TIMEOUT_S):
            await until_dead(pid)
        exited.set_result(-signal.SIGKILL)
