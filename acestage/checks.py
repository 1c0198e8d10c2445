"""Checks of request fields that collect every violation before they complain."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence

from acestage.errors import FieldViolation, InvalidArgumentError


class Checks:
    """Collects violations; `done` raises them all at once."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def require(self, is_fine: bool, field: str, description: str) -> None:
        """Notes a violation of `field` unless `is_fine`."""
        if not is_fine:
            self._violations.append(FieldViolation(field, description))

    def within(self, value: float, field: str, least: float, most: float, source: str = "") -> None:
        """`value` must be a number in [least, most]; `source` says what set `most`."""
        is_fine = math.isfinite(value) and least <= value <= most
        why = f" ({source})" if source else ""
        accepted = _shown(least) if least == most else f"{_shown(least)} to {_shown(most)}"
        self.require(is_fine, field, f"is {_shown(value)}; accepted: {accepted}{why}")

    def at_most(self, count: int, of_what: str, field: str, most: int) -> None:
        """`field` must have no more than `most` of something, for example frames."""
        self.require(count <= most, field, f"has {count} {of_what}; accepted: up to {most}")

    def timesteps(self, values: Sequence[float], field: str, most_count: int) -> None:
        """`values` must fall, within (0, 1], as float32 has them; none at all is fine."""
        levels = [ctypes.c_float(value).value for value in values]
        falls = all(before > after for before, after in itertools.pairwise(levels))
        is_fine = falls and all(0.0 < level <= 1.0 for level in levels) and len(values) <= most_count
        shown = ", ".join(_shown(value) for value in values[:20])
        self.require(is_fine, field, f"are {shown}; accepted: up to {most_count} falling values in (0, 1]")

    def done(self) -> None:
        if self._violations:
            raise InvalidArgumentError.of(self._violations)


def _shown(value: float) -> str:
    """Integers in full, others in ten digits: what lies a little above a limit must not look like it."""
    return str(value) if isinstance(value, int) else f"{value:.10g}"
