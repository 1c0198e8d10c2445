"""The command line as a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def acestage(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `acestage` with `arguments`, in a terminal so wide that no line is broken."""
    return subprocess.run(
        [sys.executable, "-m", "acestage", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "300"} | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def without_torch(folder: Path) -> dict[str, str]:
    """Variables for `acestage` with which no process can import torch; writes into `folder`."""
    hidden = folder / "without_torch"
    hidden.mkdir()
    (hidden / "torch.py").write_text("raise ImportError('torch is not needed here')")
    return {"PYTHONPATH": str(hidden)}
