"""`python -m services.runtime.preload.template REQUESTS_FD PARENT_PID ALLOCATOR`, started by `acestage up`.

Imports what the preloads of all stages import, and forks one whenever a stage asks for it. A preload is then
as if it had been started by itself: with such a command line, and it dies with its stage, though that is not
its parent. It also dies with this process; its stage then starts another one without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from services.runtime.preload.environment import preload_environment
from services.runtime.preload.protocol import MODULE, MOST_REQUEST_BYTES
from services.runtime.processes.parent_death import die_with_parent, die_with_peer

log = logging.getLogger(__name__)

_ROOM = " " * (MOST_REQUEST_BYTES + 1024)
"""An argument of this process that gives room for the command lines of preloads."""


def main() -> None:
    """Starts this process once more, in the environment of a preload and with `_ROOM`, which then serves."""
    requests_fd, parent_pid, last = sys.argv[1:]
    die_with_parent(int(parent_pid), signal.SIGKILL)
    if last != _ROOM:
        command = [sys.executable, "-m", "services.runtime.preload.template", requests_fd, parent_pid, _ROOM]
        os.execve(sys.executable, command, preload_environment(last or None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    _serve(socket.socket(fileno=int(requests_fd)))


def _serve(requests: socket.socket) -> None:
    # Not before they are needed: the first of the two starts of this process takes no time.
    from services.runtime.preload.forking import ForkServer
    from services.runtime.preload.process import import_stages
    from services.runtime.preload.process import main as preload

    import_stages()
    gc.freeze()
    own_pid = os.getpid()
    reports: dict[int, socket.socket] = {}

    def run(request: bytes, descriptors: Sequence[int]) -> NoReturn:
        control, report, lifeline = descriptors
        die_with_parent(own_pid, signal.SIGKILL)
        die_with_peer(lifeline)
        os.close(report)
        for other in reports.values():
            other.close()
        with contextlib.suppress(OSError):  # for people, and for who adds up what workers take
            _show_command([sys.executable, "-m", MODULE, str(control), str(own_pid), request.decode()])
        preload(control, request.decode())
        sys.exit()

    def forked(pid: int, descriptors: Sequence[int]) -> None:
        control, report, lifeline = descriptors
        os.close(control)
        os.close(lifeline)
        reports[pid] = socket.socket(fileno=report)
        _tell(reports[pid], pid)

    def exited(pid: int, code: int) -> None:
        with reports.pop(pid) as report:
            _tell(report, code)

    def failed(error: OSError) -> None:
        log.error("cannot fork a preload: %s", error)

    ForkServer(requests, MOST_REQUEST_BYTES, 3, run, forked, exited, failed).serve()


def _tell(report: socket.socket, number: int) -> None:
    try:
        report.sendall(f"{number}\n".encode())
    except OSError:  # the stage is gone
        return


def _show_command(words: Sequence[str]) -> None:
    """Overwrites the command line of this process, as the kernel shows it, with `words` and spaces."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    command = "\0".join(words).encode().ljust(end - start - 1) + b"\0"
    if len(command) == end - start:
        ctypes.memmove(start, command, len(command))


if __name__ == "__main__":
    main()
