"""The results of a measurement: a table for people, a file for programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUT_DIR = Path("out")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The median of `values` and, in brackets, the smallest and the largest."""
    median, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return median if low == high else f"{median} ({low}-{high})"


def mib(byte_count: float) -> str:
    """`byte_count` in MiB, for a table."""
    return f"{byte_count / 2**20:.1f}"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns as wide as they need, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    for row in (headers, ["-" * width for width in widths], *rows):
        cells = zip(row, widths, strict=True)
        print(
            "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(cells)).rstrip(), flush=True
        )


def write_json(name: str, results: Any) -> Path:
    """Writes `results` to `out/bench-NAME.json` and returns the path."""
    OUT_DIR.mkdir(exist_ok=True)
    path = OUT_DIR / f"bench-{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path
