"""Audio codes as text: `<|audio_code_17|><|audio_code_4|>`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CODE = re.compile(r"<\|audio_code_(\d{1,9})\|>")
_SHOWN_CHARACTERS = 40


def parse(text: str) -> tuple[int, ...]:
    """The numbers of the codes in `text`, which may have white space between them.

    Raises:
        ValueError: there is something else, too; says where and what.
    """
    codes: list[int] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _CODE.match(text, position)
        if match is None:
            shown = text[position : position + _SHOWN_CHARACTERS]
            raise ValueError(
                f"has {shown!r} after {len(codes)} codes; accepted: codes such as <|audio_code_17|>"
            )
        codes.append(int(match[1]))
        position = match.end()
        while position < len(text) and text[position].isspace():
            position += 1
    return tuple(codes)


def join(codes: Iterable[int]) -> str:
    """The text of `codes`."""
    return "".join(f"<|audio_code_{code}|>" for code in codes)
