"""Starts a preload process: forked from the template of the stack, where there is one, else by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from typing import Protocol

from acestage.preload_template import TEMPLATE_FD
from services.runtime.preload.environment import preload_environment
from services.runtime.preload.protocol import MODULE, MOST_REQUEST_BYTES
from services.runtime.stage_config import StageConfig

log = logging.getLogger(__name__)

TEMPLATE_TIMEOUT_S = 60.0
"""Until the template has imported what it imports."""

CODE_TIMEOUT_S = 1.0
"""Until the template has told the exit code of a process that is dead."""


class PreloadProcess(Protocol):
    """What `asyncio.subprocess.Process` has as well."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None:
        """Ends it, if it lives."""

    async def wait(self) -> int:
        """Its exit code, once it has ended."""


async def start_preload(config: StageConfig, control: socket.socket) -> PreloadProcess:
    """Starts a preload, which has `control`. Call it from the main thread: it dies with this process."""
    return await _fork(config, control) or await _spawn(config, control)


async def _spawn(config: StageConfig, control: socket.socket) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULE),
        *(str(control.fileno()), str(os.getpid()), config.to_json()),
        pass_fds=[control.fileno()],
        stdin=asyncio.subprocess.DEVNULL,
        env={k: v for k, v in preload_environment(config.cuda_allocator).items() if k != TEMPLATE_FD},
    )


async def _fork(config: StageConfig, control: socket.socket) -> ForkedPreload | None:
    """Waits until the template has imported all that it imports; None where there is none."""
    descriptor = os.environ.get(TEMPLATE_FD)
    request = config.to_json().encode()
    if descriptor is None or len(request) > MOST_REQUEST_BYTES:
        return None
    report, their_report = socket.socketpair()
    lifeline, their_lifeline = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=report)
    is_forked = False
    try:
        with their_report, their_lifeline, socket.socket(fileno=os.dup(int(descriptor))) as template:
            descriptors = [control.fileno(), their_report.fileno(), their_lifeline.fileno()]
            socket.send_fds(template, [request], descriptors)
        async with asyncio.timeout(TEMPLATE_TIMEOUT_S):
            pid = int(await reader.readline())
        is_forked = True
    except (OSError, ValueError) as error:  # it has ended, ends meanwhile, or says nothing
        log.warning("the template of preloads does not fork; starting one without it: %r", error)
        return None
    finally:
        if not is_forked:  # a preload that comes late finds its lifeline closed
            writer.close()
            lifeline.close()
    return ForkedPreload(pid, reader, writer, lifeline)


class ForkedPreload:
    """A preload that the template forked.

    Attributes:
        is_orphan: whether it died with its template, once it has died.
    """

    def __init__(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline: socket.socket,
    ) -> None:
        self.pid = pid
        self.is_orphan = False
        self._lifeline = lifeline
        self._code = asyncio.create_task(self._until_dead(reader, writer))

    def kill(self) -> None:
        self._lifeline.close()

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    async def _until_dead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        told = b""
        try:
            await until_dead(self.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CODE_TIMEOUT_S):
                    told = await reader.readline()
        finally:
            writer.close()
            self._lifeline.close()
        self.is_orphan = not told
        return int(told) if told else -signal.SIGKILL


async def until_dead(pid: int) -> None:
    """Returns once no process `pid` runs; it need not be a child of this one."""
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(descriptor, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
