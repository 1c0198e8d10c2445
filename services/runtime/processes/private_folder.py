"""Folders that nobody else may write to: code is loaded from them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OWN_FILE = 0o600
"""The mode of a file that `is_private`, whatever the umask."""


def make_private(folder: Path) -> None:
    """Creates `folder` and the parents that are missing, for this user alone."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def is_private(path: Path) -> bool:
    """Whether `path` is this user's or root's, and only they can write to it."""
    found = path.stat()
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
