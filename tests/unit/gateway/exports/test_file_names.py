"""Names of files: safe everywhere, of bounded length, and they tell seed and take."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.exports.file_names import file_name


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Warm lofi piano, rain", "warm-lofi-piano-rain-seed-7.mp3"),
        ('Don\'t stop; it\u2019s "OK"', "dont-stop-its-ok-seed-7.mp3"),
        ("../../etc/passwd", "etc-passwd-seed-7.mp3"),
        ("C:\\CON", "c-con-seed-7.mp3"),
        ("NUL", "nul-seed-7.mp3"),
        ("雨の歌 Ünï हिन्दी عربي", "雨の歌-ünï-हिन्दी-عربي-seed-7.mp3"),
        ("a\r\nb\0c\u202ed", "a-b-cd-seed-7.mp3"),
        ("🎹 ...", "song-seed-7.mp3"),
        ("", "song-seed-7.mp3"),
    ],
)
def test_titles_become_names(title: str, name: str) -> None:
    assert file_name(title, 7, 1, 1, ".mp3") == name


def test_takes_are_told_where_there_are_several() -> None:
    assert file_name("rain", 8, 2, 2, ".flac") == "rain-take-2-seed-8.flac"


@given(st.text(), st.integers(0, 2**64 - 1), st.integers(1, 8), st.integers(1, 8))
def test_every_name_is_safe(title: str, seed: int, take: int, take_count: int) -> None:
    name = file_name(title * 9, seed, take, take_count, ".mp3")
    stem = name.removesuffix(".mp3")
    assert stem.endswith(f"-seed-{seed}")
    assert len(stem.encode()) <= 100
    assert not stem.startswith("-")
    assert "--" not in stem
    assert all(character == "-" or unicodedata.category(character)[0] in "LMN" for character in stem)
