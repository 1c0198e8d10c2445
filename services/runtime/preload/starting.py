"""Starts a preload process: forked from the template of the stack, where there is one, else by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Protocol

from acestage.preload_template import TEMPLATE_FD
from services.runtime.preload.environment import preload_environment
from services.runtime.preload.protocol import MODULE, MOST_REQUEST_BYTES
from services.runtime.stage_config import StageConfig


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
        env=preload_environment(config.cuda_allocator),
    )


async def _fork(config: StageConfig, control: socket.socket) -> _Forked | None:
    """Waits until the template has imported all that it imports; None where there is none."""
    descriptor = os.environ.get(TEMPLATE_FD)
    request = config.to_json().encode()
    if descriptor is None or len(request) > MOST_REQUEST_BYTES:
        return None
    report, their_report = socket.socketpair()
    lifeline, their_lifeline = socket.socketpair()
    with their_report, their_lifeline:
        try:
            with socket.socket(fileno=os.dup(int(descriptor))) as template:
                descriptors = [control.fileno(), their_report.fileno(), their_lifeline.fileno()]
                socket.send_fds(template, [request], descriptors)
        except OSError:  # it has ended
            report.close()
            lifeline.close()
            return None
    reader, writer = await asyncio.open_connection(sock=report)
    told = await reader.readline()
    if not told:
        writer.close()
        lifeline.close()
        return None
    return _Forked(int(told), reader, writer, lifeline)


class _Forked:
    """A preload that the template forked."""

    def __init__(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline: socket.socket,
    ) -> None:
        self.pid = pid
        self._lifeline = lifeline
        self._code = asyncio.create_task(self._read_code(reader, writer))

    def kill(self) -> None:
        self._lifeline.close()

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    async def _read_code(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        try:
            told = await reader.readline()
        finally:
            writer.close()
            self._lifeline.close()
        # The template says it, unless it has died itself, and all of its preloads with it.
        return int(told) if told else -signal.SIGKILL
