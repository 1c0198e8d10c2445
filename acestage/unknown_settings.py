"""Names in a file of settings that are none."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from string import digits

from dotenv import dotenv_values

from acestage.setting_names import all_variables

_SAME_WORD = 0.7
"""What two words have in common where one is the other with a slip: "LM" and "LLM", not "HOST" and "PORT"."""


def unknown_settings(env_file: Path | None = None) -> list[str]:
    """A line for each name of ours in `env_file`, else in `.env`, that no setting has.

    Upstream has names that begin with ACESTEP_ and mean nothing here. Such a name is told only where it is
    one that we honour, misspelt.
    """
    known = [name for names in all_variables().values() for name in names]
    given = [name.upper() for name in dotenv_values(env_file or ".env", encoding="utf-8")]
    unknown = [
        name
        for name in given
        if name not in known and (name.startswith("ACESTAGE_") or _is_misspelt(name, known))
    ]
    return [f"{name} is no setting{_nearest(name, known)}" for name in unknown]


def _is_misspelt(name: str, known: Sequence[str]) -> bool:
    """Whether `name` is one of upstream's with slips; a word or a number more makes another name of it."""
    if not name.startswith("ACESTEP_") or name.rstrip(digits) in known:
        return False
    words = name.split("_")
    names = (one.split("_") for one in known if one.startswith("ACESTEP_"))
    return any(len(one) == len(words) and all(map(_is_same_word, one, words)) for one in names)


def _is_same_word(one: str, other: str) -> bool:
    return SequenceMatcher(None, one, other).ratio() >= _SAME_WORD


def _nearest(name: str, known: Sequence[str]) -> str:
    by_end = {_end_of(one): one for one in reversed(known)}
    return "".join(f"; did you mean {by_end[end]}?" for end in get_close_matches(_end_of(name), by_end, 1))


def _end_of(name: str) -> str:
    """What tells names apart that all begin alike."""
    return name.removeprefix("ACESTAGE_").removeprefix("ACESTEP_")
