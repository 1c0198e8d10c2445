"""Names and values in messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN_LENGTH = 50


def first_names(names: Sequence[str], count: int) -> str:
    """The first `count` of `names`, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def shown(value: Any) -> str:
    """The start of a value."""
    return repr(value[:_SHOWN_LENGTH]) if isinstance(value, str) else repr(value)[:_SHOWN_LENGTH]
