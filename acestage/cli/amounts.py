"""Bytes and seconds for people, short enough for a column."""

from __future__ import annotations

from acestage.planning import GIB, MIB


def size(byte_count: int) -> str:
    """For example "3005 MiB" or "23.6 GiB"."""
    if byte_count < 10_000 * MIB:
        return f"{byte_count / MIB:.0f} MiB"
    return f"{byte_count / GIB:.1f} GiB"


def span(seconds: float) -> str:
    """For example "3.2 s", "42 s", "5 min 12 s" or "3 h 7 min": two units at most."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole_s, "s")]
    first = next(index for index, (value, _) in enumerate(parts) if value)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2] if value)
