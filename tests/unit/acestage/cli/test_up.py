"""The flags of `acestage up`."""

from __future__ import annotations

import inspect
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
