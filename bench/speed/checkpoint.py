"""The full-size checkpoint with random weights that is measured where no other one is named."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.results import OUT_DIR
from scripts.random_checkpoint import write_checkpoint

FOLDER = OUT_DIR / "full-size"


def full_size_checkpoint() -> Path:
    """The folder to open. Writes the checkpoint first if it is not there: 6 GB, a few minutes."""
    found = sorted(FOLDER.glob("acestep-v15-*"))
    if found:
        return found[0]
    unfinished = FOLDER.with_name(f"{FOLDER.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    print(f"writing a full-size checkpoint with random weights to {FOLDER}", flush=True)
    written = write_checkpoint(unfinished, size="full", layout="original", dtype="bfloat16")
    unfinished.rename(FOLDER)
    return FOLDER / written.name
