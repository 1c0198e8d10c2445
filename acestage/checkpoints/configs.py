"""JSON configuration files, read with errors that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from acestage.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A JSON object and the file that it comes from.

    Attributes:
        path: the file, for messages.
        values: the settings.
    """

    path: Path
    values: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Reads `path`.

        Raises:
            CheckpointError: it is missing, unreadable, or not a JSON object.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: file not found") from error
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds a {type(values).__name__}, expected a JSON object")
        return cls(path, values)

    def replaced(self, values: Mapping[str, object]) -> ConfigFile:
        """Other settings that were derived from this file."""
        return ConfigFile(self.path, values)

    def required(self, key: str) -> object:
        """The value of `key`.

        Raises:
            CheckpointError: there is none.
        """
        if key not in self.values:
            raise CheckpointError(f"{self.path}: {key} is missing")
        return self.values[key]

    def count(self, key: str) -> int:
        """The value of `key`, a positive integer.

        Raises:
            CheckpointError: it is missing or something else.
        """
        value = self.required(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self.path}: {key} is {value!r}, expected a positive integer")
        return value

    def counts(self, key: str) -> tuple[int, ...]:
        """The value of `key`, a list of one or more positive integers.

        Raises:
            CheckpointError: it is missing or something else.
        """
        value = self.required(key)
        if (
            not isinstance(value, list)
            or not value
            or not all(type(item) is int and item > 0 for item in value)
        ):
            raise CheckpointError(f"{self.path}: {key} is {value!r}, expected a list of positive integers")
        return tuple(value)

    def flag(self, key: str) -> bool:
        """Whether `key` is there and true."""
        return self.values.get(key) is True
