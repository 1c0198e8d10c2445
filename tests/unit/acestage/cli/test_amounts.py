"""Bytes and seconds for people."""

from __future__ import annotations

import pytest

from acestage.cli.amounts import size, span

MIB = 1 << 20


@pytest.mark.parametrize(
    ("byte_count", "text"),
    [(0, "0 MiB"), (3005 * MIB, "3005 MiB"), (9_999 * MIB, "9999 MiB"), (24 << 30, "24.0 GiB")],
)
def test_bytes(byte_count: int, text: str) -> None:
    assert size(byte_count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (312, "5 min 12 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (11_220, "3 h 7 min"),
        (183_900, "2 d 3 h"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert span(seconds) == text
