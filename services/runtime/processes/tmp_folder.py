"""Folders below `tmp_dir`, for files that come from clients."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from acestage.errors import FailedPreconditionError, ResourceExhaustedError
from services.runtime.processes.private_folder import make_private

_RETRY_S = 30.0


def make_tmp_folder(folder: Path) -> None:
    """Makes `folder` for this user alone, and checks that it is.

    Raises:
        FailedPreconditionError: it cannot be used, or belongs to somebody else.
    """
    try:
        make_private(folder)
        found = folder.stat(follow_symlinks=False)
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not is_own or folder.parent.stat().st_uid not in (os.getuid(), 0):
            raise FailedPreconditionError(
                f"tmp_dir: {folder} is no folder of this user's own; name another one with ACESTAGE_TMPDIR"
            )
        folder.chmod(0o700)
    except OSError as error:
        raise unusable(folder, error) from error


def unusable(folder: Path, error: OSError) -> FailedPreconditionError:
    """The error where nothing can be done in `folder`."""
    return FailedPreconditionError(f"tmp_dir: {folder} cannot be used: {error.strerror}")


def disk_error(problem: str | None) -> ResourceExhaustedError:
    """The error where audio cannot be written."""
    return ResourceExhaustedError(
        f"the audio cannot be written to disk: {problem or 'unknown error'}; ACESTAGE_TMPDIR says where "
        "it lies",
        retry_delay_s=_RETRY_S,
    )
