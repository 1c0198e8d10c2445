"""Names in messages."""

from __future__ import annotations

from collections.abc import Sequence


def first_names(names: Sequence[str], count: int) -> str:
    """The first `count` of `names`, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
