"""The process that the preloads of a stack are forked from: what all of them import is imported once.

Torch and the libraries of the models take seconds of a CPU, and hundreds of megabytes that are the same in
every stage. A stage that runs by itself, or that finds the template dead, starts its preload without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import IO

from acestage.settings import Settings

TEMPLATE_FD = "ACESTAGE_PRELOAD_TEMPLATE_FD"
"""Names the descriptor of the template's socket in the environment of a stage."""


class PreloadTemplate:
    """The process, and the socket over which stages ask it for their preloads."""

    def __init__(self, process: asyncio.subprocess.Process, end: socket.socket) -> None:
        """Use `start` instead."""
        self._process = process
        self._end = end

    @classmethod
    async def start(cls, settings: Settings, log_file: IO[bytes] | None) -> PreloadTemplate:
        """Starts the process, which goes on importing; it ends with this one."""
        # A datagram is a request, whole, however many stages share the socket.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        allocator = settings.pytorch_cuda_alloc_conf or ""
        with contextlib.ExitStack() as failed, theirs:
            failed.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.runtime.preload.template"),
                *(str(theirs.fileno()), str(os.getpid()), allocator),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
            failed.pop_all()
        return cls(process, ours)

    @property
    def descriptor(self) -> int:
        """What stages inherit."""
        return self._end.fileno()

    @property
    def environment(self) -> dict[str, str]:
        """More variables of a stage that inherits `descriptor`."""
        return {TEMPLATE_FD: str(self.descriptor)}

    async def end(self) -> None:
        """Ends the process, and with it all that were forked from it."""
        self._end.close()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
