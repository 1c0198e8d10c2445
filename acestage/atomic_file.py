"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, survives_power_loss: bool = False) -> Iterator[Path]:
    """A new name in the folder of `path` for the block to write; it becomes `path` when the block ends well.

    What the block leaves under that name after an error is removed.

    Args:
        path: of the file, which may be there already.
        survives_power_loss: it is on the disk before this returns, and not only on its way there.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        if survives_power_loss:
            _sync(part)
        os.replace(part, path)
        if survives_power_loss:
            _sync(path.parent)  # which has the name
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
