"""What an error keeps alive: the variables of every function that it came through."""

from __future__ import annotations

import traceback


def let_go(error: BaseException) -> None:
    """Drops those variables, for `error` and the errors that led to it; functions that still run keep theirs.

    Where one of them is the error itself, as in `raise error`, nothing but the garbage collector would, some
    time or other.
    """
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__
