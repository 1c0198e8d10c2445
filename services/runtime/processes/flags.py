"""The command line that all services share; every flag overrides a setting."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from acestage.generation import STAGES
from acestage.service_settings import settings_of
from acestage.setting_errors import setting_errors
from acestage.setting_names import variables_of
from acestage.settings import Settings, load_settings


def _flags(service: str) -> tuple[str, ...]:
    match service:
        case "gateway":
            return "orchestrator", *settings_of(service)
        case "orchestrator":
            return *STAGES, "port", *settings_of(service)
        case "warmup":
            return settings_of(service)
        case _:
            return "orchestrator", "port", *settings_of(service)


def parse(service: str, description: str, arguments: list[str] | None = None) -> tuple[Settings, int | None]:
    """The settings of `service` from its flags, the environment and `.env`, or what stands in for that.

    Returns:
        The settings, and the process with which this one must end (None: none).
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}", description=description)
    for name in _flags(service):
        field = Settings.model_fields[name]
        text = field.description or ""
        if name == "port":
            text += f" Default {Settings.model_fields[f'{service}_port'].default}; 0 takes a free one."
        text += f" Variable: {' or '.join(variables_of(name))}."
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, default=argparse.SUPPRESS)
    parser.add_argument("--parent-pid", type=int, help="end when this process, the parent, ends")
    parser.add_argument("--env-file", type=Path, help="file to read in the place of .env")
    values: dict[str, Any] = vars(parser.parse_args(arguments))
    parent_pid: int | None = values.pop("parent_pid")
    env_file: Path | None = values.pop("env_file")
    if env_file is not None and not env_file.is_file():
        parser.error(f"--env-file: {env_file} is no file")
    try:
        return load_settings(env_file, **values), parent_pid
    except ValidationError as error:
        sys.exit("\n".join(setting_errors(error)))
