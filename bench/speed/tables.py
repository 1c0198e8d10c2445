"""Tables in Markdown, and the figures in them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import spread


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left and the others to the right."""
    ruler = ["---", *("---:" for _ in headers[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, ruler, *rows))


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Theirs by ours, round by round: above 1, ours is faster."""
    return spread([their / our for their, our in zip(theirs, ours, strict=True)], 2)


def signed_percent(wholes: Sequence[float], parts: Sequence[float]) -> str:
    """By how many per cent `wholes` are more than `parts`, round by round."""
    return spread([100 * (whole / part - 1) for whole, part in zip(wholes, parts, strict=True)])


def whole_mib(byte_count: int) -> str:
    """In whole MiB; "-" for none."""
    return f"{byte_count / 2**20:,.0f}" if byte_count else "-"
