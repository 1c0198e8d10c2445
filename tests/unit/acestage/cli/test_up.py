"""The flags of `acestage up`, and what it says before it starts."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from acestage.cli import up
from acestage.settings import Settings


def test_every_flag_is_the_setting_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: object() for name in inspect.signature(up.up).parameters}
    found: dict[str, Any] = {}

    def note(env_file: object, **flags: object) -> None:
        found.update(flags, env_file=env_file)
        raise KeyboardInterrupt

    monkeypatch.setattr(up, "load_settings", note)
    with pytest.raises(KeyboardInterrupt):
        up.up(**given)  # type: ignore[arg-type]
    assert found == given
    assert given.keys() - {"env_file"} <= Settings.model_fields.keys()


class ClosedTerminal(Console):
    """Nobody hears what is said at the end."""

    def print(self, *objects: Any, **options: Any) -> None:
        if str(objects[0]).startswith("Stop"):
            raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_services_end_before_the_warmup_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def services(*values: Any, **options: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(doors={}, target="127.0.0.1:1")
        ended.append("services")

    @asynccontextmanager
    async def warmup(*values: Any) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        yield
        ended.append("warmup")

    monkeypatch.setattr(up, "LocalStack", services)
    monkeypatch.setattr(up, "background_warmup", warmup)
    monkeypatch.setattr(up, "open_console", lambda **options: ClosedTerminal(**options))
    asyncio.run(asyncio.wait_for(up._serve(Settings(_env_file=None, warmup=True), None), 10))
    assert ended == ["services", "warmup"]


def test_it_names_the_models_that_are_untrained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = [
        SimpleNamespace(name=name, model=SimpleNamespace(is_untrained=is_untrained))
        for name, is_untrained in {"first": True, "second": False}.items()
    ]

    async def serve(*given: object) -> None:
        pass

    monkeypatch.setattr(up, "check_checkpoints", lambda settings: served)
    monkeypatch.setattr(up, "_serve", serve)
    up.up()
    said = capsys.readouterr().err
    assert "first is untrained" in said
    assert "second" not in said
