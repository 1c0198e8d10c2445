"""The services that a command works with: those that run, or some started for it alone."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from acestage.access import Access
from acestage.async_client import AsyncClient
from acestage.checkpoints import Checkpoint, open_checkpoints
from acestage.cli.flags import load_settings
from acestage.errors import CancelledError, FailedPreconditionError, InvalidArgumentError
from acestage.local_stack import LocalStack, free_ports
from acestage.settings import Settings

_LOG_LINE_COUNT = 40


@asynccontextmanager
async def open_client(
    console: Console,
    target: str | None,
    own: dict[str, Any],
    *,
    env_file: Path | None = None,
    may_start: bool = True,
) -> AsyncIterator[AsyncClient]:
    """A client of the services at `target`, or where the settings say; where none run and no target was
    given, services are started and end with the block.

    Args:
        own: settings for services that are started here, by the name of their flag; None where not given.
        env_file: what is read in the place of `.env`, here and by services that are started.
        may_start: whether services may be started.

    Raises:
        FailedPreconditionError: services run, and `own` has settings; or none run, and none may be started,
            or their checkpoint is not there.
    """
    async with AsyncExitStack() as stack:
        settings = load_settings(env_file, **own)
        default = settings.address("orchestrator")
        address = target or (default if _is_listening(default) else None)
        chosen = [f"--{name}" for name, value in own.items() if value is not None]
        if address is not None and chosen:
            raise FailedPreconditionError(
                f"{', '.join(chosen)}: services already run at {address} with settings of their own; "
                "stop them, or leave the flag away"
            )
        if address is None and not may_start:
            raise FailedPreconditionError(
                f"no services run at {default}, and those started for this run would end with it; "
                "start some with: acestage up"
            )
        if address is None:
            await asyncio.to_thread(check_checkpoints, settings)
            address = await _start_services(console, settings, env_file, stack)
        yield await stack.enter_async_context(AsyncClient(address, Access.of(settings)))


def check_checkpoints(settings: Settings) -> tuple[Checkpoint, ...]:
    """The checkpoints that services are to run, opened before three stages would fail to.

    Raises:
        FailedPreconditionError: one of them cannot be opened, or two have the same name.
    """
    return open_checkpoints(
        settings.checkpoints, checkpoints_dir=settings.checkpoints_dir, variant=settings.variant
    )


async def _start_services(
    console: Console, settings: Settings, env_file: Path | None, stack: AsyncExitStack
) -> str:
    """Starts the services for this run; returns the orchestrator's address."""
    console.print(
        f"No services run at {settings.address('orchestrator')}: "
        f"starting them for this run with {settings.checkpoint} …",
        soft_wrap=True,
    )
    log_file = stack.enter_context(log_shown_on_error(console))
    services = LocalStack(settings, free_ports(), env_file=env_file, log_file=log_file)
    return (await stack.enter_async_context(services)).target


@contextmanager
def log_shown_on_error(console: Console) -> Iterator[IO[bytes]]:
    """A file for the services' log, of which an error shows the end; to be left when they have ended."""
    with tempfile.TemporaryFile(prefix="acestage-", suffix=".log") as log_file:
        try:
            yield log_file
        except (InvalidArgumentError, CancelledError):
            raise
        except Exception:
            log_file.seek(0)
            lines = log_file.read().decode(errors="replace").splitlines()[-_LOG_LINE_COUNT:]
            console.print("The services logged last:", *lines, sep="\n", soft_wrap=True)
            raise


def _is_listening(target: str) -> bool:
    try:
        if target.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(target.removeprefix("unix:"))
            return True
        host, _, port = target.removeprefix("dns:///").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except (OSError, UnicodeError):  # the latter where the host cannot be a name
        return False
    return True
