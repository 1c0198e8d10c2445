"""The names by which requests ask for models."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.checkpoints.repositories import REPOSITORIES
from acestage.errors import InvalidArgumentError


def find_name(names: Sequence[str], asked: str, field: str) -> str:
    """The one of `names` that a request means.

    Args:
        names: what the models are called that are served; the first is the default. There must be one.
        asked: one of them, or what users call a published one, such as "turbo" for "acestep-v15-turbo";
            empty for the default.
        field: where the request says it, for the error.

    Raises:
        InvalidArgumentError: it means none of them.
    """
    if not asked:
        return names[0]
    published = REPOSITORIES.get(asked)
    for name in (asked, published.folder if published else asked):
        if name in names:
            return name
    raise InvalidArgumentError.at(field, f"is {asked[:50]!r}; accepted: {', '.join(names)}")
