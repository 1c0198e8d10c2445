"""What clients hear of an error is what `docs/operating.md` says."""

from __future__ import annotations

import re
from pathlib import Path

from acestage.errors import error_classes
from services.gateway.rest.error_answers import status_of

PAGE = Path(__file__).resolve().parents[4] / "docs" / "operating.md"
OF_A_KIND = {"UNKNOWN", "ABORTED", "DATA_LOSS"}
"""Reasons that nothing has: what is raised is one of their kind."""


def test_the_page_for_operators_has_every_reason_with_its_statuses() -> None:
    documented: dict[str, tuple[str, int]] = {}
    statuses = ("", 0)
    for row in re.finditer(r"^\| (?:`([A-Z_]+)`, (\d+) )?\| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE):
        code, http, reason = row.groups()
        statuses = (code, int(http)) if code else statuses
        documented[reason] = statuses
    told = {reason: (cls.code.name, status_of(cls(""))) for reason, cls in error_classes().items()}
    assert documented == {reason: both for reason, both in told.items() if reason not in OF_A_KIND}
