"""The warmup, which compiles kernels, as a process: only the services know these, and they need torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from acestage.service_settings import settings_of
from acestage.settings import Settings

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0


def warmup_command(settings: Settings, env_file: Path | None = None) -> list[str]:
    """The command line of a warmup for services with `settings`, and `env_file` in the place of `.env`."""
    given = {name.replace("_", "-"): getattr(settings, name) for name in settings_of("warmup")}
    given |= {"env-file": env_file}
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [sys.executable, "-m", "services.warmup", *arguments]


@contextlib.asynccontextmanager
async def background_warmup(settings: Settings, env_file: Path | None = None) -> AsyncIterator[None]:
    """Compiles, while the block lasts, what `settings` lack; whether it works shows in the log alone."""
    process = await asyncio.create_subprocess_exec(
        *warmup_command(settings, env_file),
        f"--parent-pid={os.getpid()}",
        stdin=asyncio.subprocess.DEVNULL,
        # A group of its own, to be ended together with the compilers that it starts.
        start_new_session=True,
    )
    watching = asyncio.create_task(_watch(process))
    try:
        yield
    finally:
        watching.cancel()
        await _end(process)


async def _watch(process: asyncio.subprocess.Process) -> None:
    code = await process.wait()
    if code < 0:  # else it has spoken for itself
        log.warning("the warmup was killed by signal %d: kernels are not compiled", -code)


async def _end(process: asyncio.subprocess.Process) -> None:
    # Its group may outlive it, and may be gone before anybody says so.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        # At the lowest priority even that takes its time; nothing is left to wait for.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
