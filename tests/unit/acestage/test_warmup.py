"""The warmup behind `acestage up`, where the CPUs leave it no time to end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from typing import Any

import pytest

from acestage import warmup
from acestage.settings import Settings


class Starved:
    """A process that gets no CPU, not even to die."""

    returncode = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    async def wait(self) -> None:
        await asyncio.Event().wait()


def test_a_warmup_that_gets_no_cpu_is_killed_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "STOP_TIMEOUT_S", 0.01)
    stubborn = "trap '' TERM; echo; read line"
    with subprocess.Popen(
        ["sh", "-c", stubborn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it ignores SIGTERM now

        async def start(*command: str, **options: Any) -> Starved:
            return Starved(process.pid)

        async def scenario() -> None:
            async with warmup.background_warmup(Settings(_env_file=None)):
                pass

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
        asyncio.run(asyncio.wait_for(scenario(), 10))
        assert process.wait(10) == -signal.SIGKILL
