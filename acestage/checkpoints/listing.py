"""Lists the checkpoints on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestage.checkpoints.checkpoint import Checkpoint, Layout
from acestage.checkpoints.diffusers_layout import INDEX_FILE
from acestage.checkpoints.opening import open_checkpoint
from acestage.checkpoints.original_layout import variants_in
from acestage.errors import CheckpointError
from acestage.settings import EMBEDDED_CHECKPOINT


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint that is here, or a folder that should be one.

    Attributes:
        name: by which `open_checkpoint` finds it.
        path: its folder.
        layout: None if it cannot be opened.
        byte_count: of its weight files; those that it shares with others count as well. Of all files in
            its folder if it cannot be opened.
        problem: why it cannot be opened, or None.
    """

    name: str
    path: Path
    layout: Layout | None
    byte_count: int
    problem: str | None = None


def list_local(checkpoints_dir: Path) -> list[LocalCheckpoint]:
    """The checkpoint in the package, and then those in `checkpoints_dir` by name. Reads JSON files only."""
    names = {path.parent.name for path in checkpoints_dir.glob(f"*/{INDEX_FILE}")}
    names.update(variants_in(checkpoints_dir))
    names.update(path.name for path in checkpoints_dir.glob("*/") if variants_in(path))
    names.discard(EMBEDDED_CHECKPOINT)
    return [_listed(name, checkpoints_dir) for name in (EMBEDDED_CHECKPOINT, *sorted(names))]


def _listed(name: str, checkpoints_dir: Path) -> LocalCheckpoint:
    try:
        checkpoint = open_checkpoint(name, checkpoints_dir=checkpoints_dir)
    except CheckpointError as error:
        path = checkpoints_dir / name
        files = (file for file in path.rglob("*") if file.is_file())
        return LocalCheckpoint(name, path, None, sum(file.stat().st_size for file in files), error.message)
    return LocalCheckpoint(name, checkpoint.path, checkpoint.layout, _weight_byte_count(checkpoint))


def _weight_byte_count(checkpoint: Checkpoint) -> int:
    files = {shard for component in checkpoint.components for shard in component.weights.shards}
    return sum(file.stat().st_size for file in files)
