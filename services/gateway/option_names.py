"""Names of a generation's options in messages, which every front door has names of its own for."""

from __future__ import annotations

import re
from collections.abc import Mapping


def renamed(text: str, names: Mapping[str, str]) -> str:
    """`text` with what `names` has for an option in its place.

    Options that are plain words stay: nobody knows whether they are meant.
    """
    options = "|".join(option for option in names if "_" in option)
    return re.sub(rf"\b({options})\b", lambda option: names[option[0]], text)
