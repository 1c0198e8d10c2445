"""A worker process, seen from the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from acestage.errors import DeviceQuarantinedError
from services.runtime.workers.messages import Message, frame_parts, receive_async

EXIT_TIMEOUT_S = 30.0
"""How long a process may take to die of SIGKILL: a driver that tears down a device needs a moment."""


class WorkerHandle:
    """What the service can do with a worker: send, receive, stop, kill."""

    def __init__(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        exited: asyncio.Future[int],
    ) -> None:
        """Takes over the service's end of the worker's socket.

        Args:
            pid: the worker.
            reader: what the worker says.
            writer: what it is told.
            exited: resolved with its exit code once it is dead.
        """
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._exited = exited
        self._is_killed = False
        self._receiving: asyncio.Future[Message | None] | None = None
        self._sending: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it can be given work: neither dead nor killed."""
        return not self._exited.done() and not self._is_killed

    @property
    def has_died(self) -> bool:
        """Whether it is dead, and not because it was killed here."""
        return self._exited.done() and not self._is_killed

    async def send(self, message: Message) -> None:
        """Sends `message`. A worker that died is noticed by `receive`; one that does not read, by nobody.

        Messages are sent in turn and each to its end, even if this call is cancelled: half of one would
        swallow what follows.
        """
        await asyncio.shield(self._post(message))

    def cancel(self, job: int) -> None:
        """Asks for the end of job number `job`, within one step or tile; does not wait."""
        self._post(Message("cancel", {"number": job}))

    def _post(self, message: Message) -> asyncio.Task[None]:
        self._sending = asyncio.ensure_future(self._write(message, self._sending))
        return self._sending

    async def _write(self, message: Message, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        with contextlib.suppress(ConnectionError):
            for part in frame_parts(message):
                self._writer.write(part)
                await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message, or None once the worker has closed its end or died.

        A cancelled call loses nothing: the next one has the message.
        """
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(receive_async(self._reader))
        message = await asyncio.shield(self._receiving)
        self._receiving = None
        return message

    async def exit_code(self) -> int:
        """Waits for the end of the process. Negative: the signal that ended it.

        Raises:
            DeviceQuarantinedError: it takes too long (a driver may hold it in the kernel).
        """
        await asyncio.wait([self._exited], timeout=EXIT_TIMEOUT_S)
        if not self._exited.done():
            raise self._does_not_die()
        return self._exited.result()

    async def ended(self) -> None:
        """Returns once the process is dead."""
        await asyncio.wait([self._exited])

    async def stop(self, *, grace_s: float) -> None:
        """Returns once the process is dead: told to stop, and killed if it is not gone after `grace_s`.

        Raises:
            DeviceQuarantinedError: it does not die even so (a driver may hold it in the kernel).
        """
        self._post(Message("stop"))
        await asyncio.wait([self._exited], timeout=grace_s)
        if not self._exited.done():
            self.kill()
            await asyncio.wait([self._exited], timeout=EXIT_TIMEOUT_S)
        if self._receiving is not None:
            self._receiving.cancel()
        self._writer.transport.abort()
        if not self._exited.done():
            raise self._does_not_die()

    def kill(self) -> None:
        """SIGKILL, unless the process is known to be dead."""
        self._is_killed = True
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _does_not_die(self) -> DeviceQuarantinedError:
        return DeviceQuarantinedError(
            f"worker {self.pid} did not die within {EXIT_TIMEOUT_S:.0f} s", metadata={"pid": str(self.pid)}
        )
