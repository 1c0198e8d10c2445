"""A service ends in order at the first signal, and at once at one that comes well after it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.runtime.rpc.server import SECOND_SIGNAL_S
from tests.running_stack import wait_until

SERVICE = """
import asyncio, sys
from services.runtime.rpc import server

async def main():
    server.SECOND_SIGNAL_S = float(sys.argv[1])
    running = asyncio.create_task(server.until_stopped())
    await asyncio.sleep(0)
    print("running", flush=True)
    await running
    print("ending", flush=True)
    await asyncio.to_thread(input)
    print("ended", flush=True)

asyncio.run(main())
"""


@contextlib.contextmanager
def ending_service(second_signal_s: float) -> Iterator[subprocess.Popen[str]]:
    """A process that was told to end, and does so once it reads a line."""
    command = [sys.executable, "-c", SERVICE, str(second_signal_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "ending\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_come_at_once_are_one(number: signal.Signals) -> None:
    with ending_service(second_signal_s=60.0) as service:
        service.send_signal(number)
        said, _ = service.communicate("\n", timeout=30)
    assert (said, service.returncode) == ("ended\n", 0)


def test_a_later_signal_ends_the_service_at_once() -> None:
    with ending_service(SECOND_SIGNAL_S) as service:

        def has_ended() -> bool:
            service.send_signal(signal.SIGTERM)
            return service.poll() is not None

        wait_until(has_ended, "the service has ended")
    assert service.returncode == -signal.SIGTERM
