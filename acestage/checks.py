"""Checks of request fields that collect every violation before they complain."""

from __future__ import annotations

import math

from acestage.errors import FieldViolation, InvalidArgumentError


class Checks:
    """Collects violations; `done` raises them all at once."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def require(self, is_fine: bool, field: str, description: str) -> None:
        """Notes a violation of `field` unless `is_fine`."""
        if not is_fine:
            self._violations.append(FieldViolation(field, description))

    def within(self, value: float, field: str, least: float, most: float) -> None:
        """`value` must be a number in [least, most]."""
        is_fine = math.isfinite(value) and least <= value <= most
        self.require(is_fine, field, f"is {value:g}; accepted: {least:g} to {most:g}")

    def done(self) -> None:
        if self._violations:
            raise InvalidArgumentError.of(self._violations)
