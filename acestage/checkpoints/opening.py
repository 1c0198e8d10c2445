"""Opens a checkpoint by name or path: finds its layout, reads its configurations, checks that they fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from acestage.checkpoints.checkpoint import Checkpoint, Layout
from acestage.checkpoints.component_names import CONDITION_ENCODER, TEXT_ENCODER, TRANSFORMER, VAE
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.diffusers_layout import INDEX_FILE, TOKENIZER_FOLDER, read_diffusers
from acestage.checkpoints.facts import model_facts
from acestage.checkpoints.original_layout import (
    TEXT_ENCODER_FOLDER,
    find_original,
    read_original,
    variants_in,
)
from acestage.checkpoints.repositories import REPOSITORIES
from acestage.errors import CheckpointError, FailedPreconditionError
from acestage.settings import EMBEDDED_CHECKPOINT

EMBEDDED_PATH = Path(__file__).resolve().parents[1] / "models" / EMBEDDED_CHECKPOINT
UNTRAINED_KEY = "acestage_untrained"
"""Set in `model_index.json`, or in a variant's `config.json`, of a checkpoint with random weights."""


def open_checkpoint(
    name_or_path: str | Path, *, checkpoints_dir: Path, variant: str | None = None
) -> Checkpoint:
    """Opens a checkpoint; reads JSON files only, so it is cheap.

    Args:
        name_or_path: `tiny-turbo` for the checkpoint in the package; a folder in `checkpoints_dir`, by its
            name or by the name of the published checkpoint, such as `base`; or a path.
        checkpoints_dir: where downloaded checkpoints lie.
        variant: folder name of the model to use if the checkpoint is in the original layout and has several;
            without it `acestep-v15-turbo`, or else the only one.

    Raises:
        CheckpointError: it is not there, incomplete, of an unknown kind, or its parts do not fit together.
    """
    path = _find(name_or_path, checkpoints_dir)
    if (path / INDEX_FILE).is_file():
        marked = ConfigFile.read(path / INDEX_FILE)
        layout, components, tokenizer_path = Layout.DIFFUSERS, read_diffusers(path), path / TOKENIZER_FOLDER
    else:
        folders = find_original(path, variant)
        if folders is None:
            raise CheckpointError(
                f"{path}: not a checkpoint: expected {INDEX_FILE} (diffusers layout), a config.json beside"
                f" model weights, or a folder acestep-v15-* (original layout)"
            )
        path = folders.variant
        marked = ConfigFile.read(path / "config.json")
        layout, components = Layout.ORIGINAL, read_original(folders)
        tokenizer_path = folders.root / TEXT_ENCODER_FOLDER
    if not (tokenizer_path / "tokenizer.json").is_file():
        raise CheckpointError(f"{tokenizer_path / 'tokenizer.json'}: file not found")
    configs = {component.name: component.config for component in components}
    _check_fit(configs)
    facts = model_facts(path.name, configs, is_untrained=marked.flag(UNTRAINED_KEY))
    return Checkpoint(path, path.name, layout, facts, components, tokenizer_path)


def open_checkpoints(
    names_or_paths: Sequence[str], *, checkpoints_dir: Path, variant: str | None = None
) -> tuple[Checkpoint, ...]:
    """Opens one checkpoint or several, which must be models of different names, as `open_checkpoint` does.

    Where there are several, `variant` is for those that are in the original layout and have several models.

    Raises:
        CheckpointError: one of them cannot be opened.
        FailedPreconditionError: two have the same name.
    """
    if len(names_or_paths) == 1:
        return (open_checkpoint(names_or_paths[0], checkpoints_dir=checkpoints_dir, variant=variant),)
    found: dict[str, Checkpoint] = {}
    for name_or_path in names_or_paths:
        has_several = len(variants_in(_find(name_or_path, checkpoints_dir))) > 1
        checkpoint = open_checkpoint(
            name_or_path, checkpoints_dir=checkpoints_dir, variant=variant if has_several else None
        )
        before = found.setdefault(checkpoint.name, checkpoint)
        if before is not checkpoint:
            raise FailedPreconditionError(
                f"checkpoint: {before.path} and {checkpoint.path} are both called {checkpoint.name}; "
                "accepted: models of different names, by which requests choose"
            )
    return tuple(found.values())


def _find(name_or_path: str | Path, checkpoints_dir: Path) -> Path:
    if name_or_path == EMBEDDED_CHECKPOINT:
        return EMBEDDED_PATH
    path = Path(name_or_path).expanduser()
    candidates = [path]
    if isinstance(name_or_path, str) and path.name == name_or_path:
        published = REPOSITORIES.get(name_or_path)
        folders = [name_or_path, published.folder] if published else [name_or_path]
        candidates = [*(checkpoints_dir / folder for folder in folders), path]
    for candidate in candidates:
        if candidate.is_dir():
            # Not resolved: a linked variant folder has its root where the link is.
            return Path(os.path.abspath(candidate))
    if name_or_path in REPOSITORIES:
        hint = f"download it with: acestage models pull {name_or_path}"
    else:
        hint = f"accepted: a folder, {', '.join((EMBEDDED_CHECKPOINT, *REPOSITORIES))}"
    raise CheckpointError(
        f"checkpoint {str(name_or_path)!r} not found, looked for {', '.join(map(str, candidates))}; {hint}"
    )


def _check_fit(configs: Mapping[str, ConfigFile]) -> None:
    """Checks the widths where one component feeds another, which no component can check by itself."""
    transformer, encoder = configs[TRANSFORMER], configs[CONDITION_ENCODER]
    vae, text_encoder = configs[VAE], configs[TEXT_ENCODER]
    fed_width_key = "encoder_hidden_size" if transformer.values.get("encoder_hidden_size") else "hidden_size"
    for one, one_key, other, other_key in (
        (transformer, "audio_acoustic_hidden_dim", vae, "decoder_input_channels"),
        (transformer, "audio_acoustic_hidden_dim", encoder, "timbre_hidden_dim"),
        (transformer, fed_width_key, encoder, "hidden_size"),
        (encoder, "text_hidden_dim", text_encoder, "hidden_size"),
    ):
        if one.count(one_key) != other.count(other_key):
            raise CheckpointError(
                f"{one.path}: {one_key} is {one.count(one_key)}, but {other_key} in {other.path}"
                f" is {other.count(other_key)}; they must be equal"
            )
