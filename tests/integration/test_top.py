"""`acestage top` in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from acestage.local_stack import free_ports
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc
from tests.statuses import status_message

ENTERS_SCREEN = b"\x1b[?1049h"
LEAVES_SCREEN = b"\x1b[?1049l"
SHOWS_CURSOR = b"\x1b[?25h"
TIMEOUT_S = 60.0


class Orchestrator(generation_pb2_grpc.GenerationServiceServicer):
    """Answers every question for the status with one more running job."""

    def __init__(self) -> None:
        self._count = 0

    def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        self._count += 1
        status = status_message()
        status.queue.running_count = self._count
        return status


@contextlib.contextmanager
def orchestrator(port: int) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(2))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Orchestrator(), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        yield
    finally:
        server.stop(grace=None).wait()


class Terminal:
    """`acestage top` in a terminal of 40 rows of 120 columns, and what it wrote."""

    def __init__(self, port: int, *flags: str) -> None:
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "acestage", "top", f"--target=127.0.0.1:{port}", *flags]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.written = b""

    def read_until(self, *words: str) -> None:
        """Reads until it has written all of `words` since the call."""
        start = len(self.written)
        deadline = time.monotonic() + TIMEOUT_S
        while not all(word.encode() in self.written[start:] for word in words):
            assert self._read(deadline), f"{words} are not in {self.written[start:]!r}"

    def end(self, number: signal.Signals) -> int:
        """Sends `number`, reads the rest and returns the exit code."""
        self.process.send_signal(number)
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(deadline):
            pass
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        os.close(self._fd)

    def _read(self, deadline: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._fd, selectors.EVENT_READ)
            assert selector.select(deadline - time.monotonic()), f"nothing more after {self.written!r}"
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # how a terminal tells that nobody is left at its other end
            return False
        self.written += data
        return bool(data)


@contextlib.contextmanager
def top(port: int, *flags: str) -> Iterator[Terminal]:
    terminal = Terminal(port, *flags)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_refreshes_and_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    port = free_ports()["orchestrator"]
    with orchestrator(port), top(port, "--interval=0.1") as terminal:
        terminal.read_until("Acestage 9.8.7", "Jobs: 1 running", "dit@studio:4700", "WORKER_CRASHED")
        terminal.read_until("Jobs: 4 running")
        assert terminal.end(number) == 0
    assert terminal.written.index(ENTERS_SCREEN) < terminal.written.index(LEAVES_SCREEN)
    assert terminal.written.rindex(SHOWS_CURSOR) > terminal.written.index(b"Jobs: 4 running")
    assert b"Traceback" not in terminal.written
    assert b"Aborted" not in terminal.written


def test_it_says_that_the_orchestrator_is_away_and_finds_it_again() -> None:
    port = free_ports()["orchestrator"]
    with top(port, "--interval=0.1") as terminal:
        terminal.read_until(
            f"127.0.0.1:{port} cannot be reached since", "trying again", "SERVICE_UNREACHABLE"
        )
        with orchestrator(port):
            terminal.read_until("Acestage 9.8.7", "Jobs: 2 running")
        terminal.read_until("cannot be reached since", "This was so at", "dit@studio:4700")
        with orchestrator(port):
            terminal.read_until("Jobs: 2 running")
        assert terminal.end(signal.SIGINT) == 0
    assert b"Traceback" not in terminal.written


def test_without_a_terminal_it_names_the_command_that_prints_once() -> None:
    command = [sys.executable, "-m", "acestage", "top"]
    wide = os.environ | {"COLUMNS": "200"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=wide)
    assert ended.returncode == 2
    assert "acestage status" in ended.stderr
