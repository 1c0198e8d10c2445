"""Where files lie on their way from clients to the orchestrator."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from services.runtime.processes.tmp_folder import make_tmp_folder


def spool_in(folder: Path) -> None:
    """What clients send goes to disk in `folder`. For a process that has not imported Gradio yet.

    Raises:
        FailedPreconditionError: it cannot be used, or belongs to somebody else.
    """
    make_tmp_folder(folder)
    tempfile.tempdir = str(folder)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "page")  # its files stay for an hour
