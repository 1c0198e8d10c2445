"""The flags of `acestage up`."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

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


def test_the_services_end_before_the_warmup_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def services(*values: Any, **options: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(doors={}, target="127.0.0.1:1")
        ended.append("services")

    @asynccontextmanager
    async def warmup(*values: Any) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        yield
        ended.append("warmup")

    monkeypatch.setattr(up, "LocalStack", services)
    monkeypatch.setattr(up, "background_warmup", warmup)
    asyncio.run(asyncio.wait_for(up._serve(Settings(_env_file=None, warmup=True), None), 10))
    assert ended == ["services", "warmup"]
