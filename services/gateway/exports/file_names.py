"""Names of files that every system and every browser takes."""

from __future__ import annotations

import unicodedata

MOST_STEM_BYTES = 100
"""In UTF-8; file systems take 255, and archives and folders add their own."""

_NAMELESS = "song"


def file_name(title: str, seed: int, take: int, take_count: int, suffix: str) -> str:
    """Such as "warm-lofi-piano-rain-seed-7.mp3", or "...-take-2-seed-8.mp3" where there are several takes.

    Of the title it keeps letters, with their accents, and digits, of every script. It never is one of the
    names that Windows reserves, since it ends with the seed.

    Args:
        take: counts from 1.
        suffix: with the dot.
    """
    tail = f"-take-{take}-seed-{seed}" if take_count > 1 else f"-seed-{seed}"
    words = _words(title) or _NAMELESS
    room = max(MOST_STEM_BYTES - len(tail), 0)
    return f"{_cut(words, room).strip('-') or _NAMELESS}{tail}{suffix}"


def _words(title: str) -> str:
    """The words of `title`, in lower case, with one hyphen between."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", title).lower())
    kept = "".join(_kept(character) for character in text)
    return "-".join(kept.split())


def _kept(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return character
    # Marks of direction and joiners, and the apostrophe within a word, part nothing.
    return "" if category == "Cf" or character in "'\N{RIGHT SINGLE QUOTATION MARK}" else " "


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")
