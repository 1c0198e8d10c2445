"""The command line that all services share."""

from __future__ import annotations

import re

import pytest

from acestage.setting_names import variables_of
from acestage.settings import SERVICES
from services.runtime.processes import flags

WITHOUT_VARIABLE = {"parent-pid", "env-file"}


@pytest.mark.parametrize("service", [*SERVICES, "gateway", "warmup"])
def test_the_help_of_a_service_names_the_variables_of_each_flag(
    service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        flags.parse(service, "", ["--help"])
    _, _, options = capsys.readouterr().out.partition("options:")
    parts = re.findall(r"^  --([a-z-]+) (.+?)(?=^  --|\Z)", options, re.MULTILINE | re.DOTALL)
    found = {name: " ".join(text.split()) for name, text in parts}
    assert {name for name, text in found.items() if "Variable: " not in text} == WITHOUT_VARIABLE
    for name in found.keys() - WITHOUT_VARIABLE:
        names = " or ".join(variables_of(name.replace("-", "_")))
        assert found[name].endswith(f"Variable: {names}.")
