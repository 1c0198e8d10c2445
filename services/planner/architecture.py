"""Finds what is to be planned: a checkpoint on this machine, or the shapes of a published one."""

from __future__ import annotations

from pathlib import Path

from acestage.checkpoints import REPOSITORIES, Checkpoint, open_checkpoint
from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.published import published_checkpoint
from acestage.checkpoints.stored import stored_dtype
from acestage.errors import InvalidArgumentError, NotFoundError

_PUBLISHED_DTYPE = "bfloat16"


def find_architecture(name_or_path: str, checkpoints_dir: Path, variant: str | None) -> Checkpoint:
    """The checkpoint that `open_checkpoint` finds, or else the published model of that name.

    Raises:
        CheckpointError: what is there is damaged or of an unknown kind.
        InvalidArgumentError: a published model has no such variant.
        NotFoundError: nothing is there, and no published model has that name.
    """
    folders = [checkpoints_dir / name_or_path]
    if name_or_path in REPOSITORIES:
        folders.append(checkpoints_dir / REPOSITORIES[name_or_path].folder)
        if not any(folder.is_dir() for folder in folders):
            own = REPOSITORIES[name_or_path].folder
            if variant not in (None, own):
                raise InvalidArgumentError.at(
                    "variant", f"is {variant!r}; accepted for {name_or_path}: {own}, or none"
                )
            return published_checkpoint(name_or_path)
    folders.append(Path(name_or_path).expanduser())
    if name_or_path != "tiny-turbo" and not any(folder.is_dir() for folder in folders):
        raise NotFoundError(
            f"checkpoint: {name_or_path!r} is neither a folder, looked for "
            f"{', '.join(dict.fromkeys(map(str, folders)))}, nor a published model; those are: "
            + ", ".join(["tiny-turbo", *REPOSITORIES])
        )
    return open_checkpoint(name_or_path, checkpoints_dir=checkpoints_dir, variant=variant)


def transformer_dtype(checkpoint: Checkpoint) -> str:
    """The data type of the transformer's weights in their files; reads headers only."""
    component = checkpoint.component(TRANSFORMER)
    return stored_dtype(component) if component.weights.shards else _PUBLISHED_DTYPE
