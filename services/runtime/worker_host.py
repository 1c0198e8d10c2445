"""The service's side of its preload and worker processes: start, fork, watch, kill, restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from acestage import errors
from services.runtime.finishing import finish
from services.runtime.messages import Message, pack, receive_async, to_error
from services.runtime.preload_protocol import FORK
from services.runtime.process_memory import ProcessMemory, measure
from services.runtime.stage_config import StageConfig

log = logging.getLogger(__name__)

RESTART_DELAY_S = 1.0
FORK_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class PreloadFacts:
    """What a ready preload says: the resolved data type, and the weights' bytes in it."""

    dtype: str
    weights_bytes: int


class Worker:
    """A worker process, seen from the service."""

    def __init__(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        exited: asyncio.Future[int],
    ) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._exited = exited

    async def send(self, message: Message) -> None:
        """Sends `message`; a worker that died is noticed by `receive`, not here."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(pack(message))
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message, or None once the worker has closed its end or died."""
        return await receive_async(self._reader)

    async def exit_code(self) -> int:
        """Waits for the end of the process. Negative: the signal that ended it."""
        return await asyncio.wait_for(asyncio.shield(self._exited), EXIT_TIMEOUT_S)

    async def stop(self, *, grace_s: float) -> None:
        """Returns once the process is dead: cancelled, and killed if it is not gone after `grace_s`.

        Raises:
            DeviceQuarantinedError: it does not die even so (a driver may hold it in the kernel).
        """
        if not self._exited.done():
            await self.send(Message("cancel"))
            done, _ = await asyncio.wait([self._exited], timeout=grace_s)
            if not done:
                self.kill()
                done, _ = await asyncio.wait([self._exited], timeout=EXIT_TIMEOUT_S)
            if not done:
                raise errors.DeviceQuarantinedError(
                    f"worker {self.pid} did not die within {EXIT_TIMEOUT_S:.0f} s of SIGKILL",
                    metadata={"pid": str(self.pid)},
                )
        self._writer.close()

    def kill(self) -> None:
        """SIGKILL, unless the process is known to be dead."""
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class WorkerHost:
    """Keeps the preload process of a stage alive and forks workers from it.

    Use as `async with WorkerHost(config, on_ready_change) as host`, from the main thread and before gRPC
    starts: the preload dies with the thread that started it.
    """

    def __init__(self, config: StageConfig, on_ready_change: Callable[[bool], Awaitable[None]]) -> None:
        self._config = config
        self._on_ready_change = on_ready_change
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._facts: asyncio.Future[PreloadFacts] = asyncio.get_running_loop().create_future()
        self._forks: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue()
        self._fork_lock = asyncio.Lock()
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> WorkerHost:
        reader = await self._start()
        self._task = asyncio.create_task(self._keep_alive(reader))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # its workers die with it
            await self._process.wait()

    async def ready(self) -> PreloadFacts:
        """Waits for the preload; raises its error, for example that of a damaged checkpoint."""
        return await asyncio.shield(self._facts)

    def facts(self) -> PreloadFacts | None:
        """What the preload said, or None while it is not ready."""
        if self._facts.done() and not self._facts.cancelled() and self._facts.exception() is None:
            return self._facts.result()
        return None

    async def fork(self) -> Worker:
        """A new worker, which waits for its request.

        Raises:
            WorkerCrashedError: the preload is not there, or did not fork in time.
        """
        if self.facts() is None or self._control is None:
            raise self._crashed("its preload process is not ready")
        ours, theirs = socket.socketpair()
        async with self._fork_lock:
            try:
                socket.send_fds(self._control, [FORK], [theirs.fileno()])
                # Not to be cut short: the next caller would take this answer for its own.
                pid, exited = await finish(asyncio.wait_for(self._forks.get(), FORK_TIMEOUT_S))
            except (OSError, TimeoutError) as error:
                ours.close()
                raise self._crashed("its preload process does not fork") from error
            except asyncio.CancelledError:
                ours.close()  # the worker, which has no request yet, ends with its socket
                raise
            finally:
                theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        return Worker(pid, reader, writer, exited)

    def memory(self) -> list[ProcessMemory]:
        """Memory of this service and of its preload."""
        found = [measure(f"{self._config.stage}/service")]
        if self._process is not None:
            found.append(measure(f"{self._config.stage}/preload", self._process.pid))
        return [memory for memory in found if memory is not None]

    async def _start(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "services.runtime.preload",
            str(theirs.fileno()),
            self._config.to_json(),
        ]
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
            )
        self._control = ours.dup()
        reader, _writer = await asyncio.open_connection(sock=ours)
        self._writer = _writer
        return reader

    async def _keep_alive(self, reader: asyncio.StreamReader) -> None:
        was_ready = False
        while True:
            error = await self._watch(reader)
            was_ready = was_ready or self.facts() is not None
            await self._on_ready_change(False)
            while self._exits:
                _, exited = self._exits.popitem()
                exited.set_result(-signal.SIGKILL)  # PR_SET_PDEATHSIG
            if not was_ready:
                self._facts.set_exception(error)
                return  # trying again would not help
            log.error("%s; starting it again", error)
            if self._facts.done():
                self._facts = asyncio.get_running_loop().create_future()
            await asyncio.sleep(RESTART_DELAY_S)
            reader = await self._start()

    async def _watch(self, reader: asyncio.StreamReader) -> errors.AcestageError:
        """Handles the preload's messages until it ends; returns why it ended."""
        while (message := await receive_async(reader)) is not None:
            fields = message.fields
            if message.kind == "ready":
                self._facts.set_result(PreloadFacts(fields["dtype"], fields["weights_bytes"]))
                await self._on_ready_change(True)
            elif message.kind == "forked":
                exited = self._exits[fields["pid"]] = asyncio.get_running_loop().create_future()
                self._forks.put_nowait((fields["pid"], exited))
            elif message.kind == "exited":
                self._exits.pop(fields["pid"]).set_result(fields["code"])
            elif message.kind == "error":
                return to_error(message)
        assert self._process is not None
        code = await self._process.wait()
        return self._crashed(f"its preload process ended with exit code {code}")

    def _crashed(self, what: str) -> errors.WorkerCrashedError:
        return errors.WorkerCrashedError(
            f"{self._config.stage}: {what}",
            metadata={"stage": self._config.stage},
            retry_delay_s=RESTART_DELAY_S,
        )
