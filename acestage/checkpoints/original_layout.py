"""The original layout: a root with `vae/`, `Qwen3-Embedding-0.6B/` and a folder for each model variant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestage.checkpoints.checkpoint import Component
from acestage.checkpoints.component_names import CONDITION_ENCODER, OPTIONAL, REQUIRED, TEXT_ENCODER, VAE
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.key_schemes import KeyScheme
from acestage.checkpoints.original_config import check_family, component_settings
from acestage.checkpoints.weight_files import find_weight_files
from acestage.errors import CheckpointError

DEFAULT_VARIANT = "acestep-v15-turbo"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
VAE_FOLDER = "vae"
SILENCE_LATENT_FILE = "silence_latent.pt"

_VARIANT_PATTERN = "acestep-v15-*"


@dataclass(frozen=True, slots=True)
class OriginalFolders:
    """A variant in the original layout, and the root whose VAE and text encoder it shares."""

    root: Path
    variant: Path


def find_original(path: Path, variant: str | None) -> OriginalFolders | None:
    """The variant that `path`, a root or the folder of a variant, and the name `variant` mean.

    Returns:
        None if `path` is neither.

    Raises:
        CheckpointError: `variant` is not there or contradicts `path`, or several are there and none is named.
    """
    if (path / "config.json").is_file() and not (path / VAE_FOLDER).is_dir():
        if variant not in (None, path.name):
            raise CheckpointError(
                f"{path}: is the variant {path.name}, but the variant {variant} is asked for"
            )
        return OriginalFolders(path.parent, path)
    there = variants_in(path)
    if not there and not (path / VAE_FOLDER).is_dir():
        return None
    if variant is not None:
        if Path(variant).name != variant or not (path / variant / "config.json").is_file():
            raise CheckpointError(f"{path}: has no variant {variant}; it has: {_listed(there)}")
        return OriginalFolders(path, path / variant)
    if DEFAULT_VARIANT in there:
        return OriginalFolders(path, path / DEFAULT_VARIANT)
    if len(there) != 1:
        raise CheckpointError(f"{path}: name the variant to use; it has: {_listed(there)}")
    return OriginalFolders(path, path / there[0])


def variants_in(root: Path) -> list[str]:
    """Names of the variant folders in `root`, sorted; a diffusers pipeline of such a name is not one."""
    return sorted(config.parent.name for config in root.glob(f"{_VARIANT_PATTERN}/config.json"))


def read_original(folders: OriginalFolders) -> tuple[Component, ...]:
    """The components of a variant: the shared ones from the root, the others from the variant's one file.

    Raises:
        CheckpointError: a file or a field is missing, or the model is not of the ACE-Step 1.5 family.
    """
    config = ConfigFile.read(folders.variant / "config.json")
    check_family(config)
    weights = find_weight_files(folders.variant, "model")
    silence_latent = folders.variant / SILENCE_LATENT_FILE
    if not silence_latent.is_file():
        raise CheckpointError(f"{silence_latent}: file not found; the {CONDITION_ENCODER} needs it")
    own = {
        name: Component(
            name,
            config.replaced(settings),
            weights,
            KeyScheme.ORIGINAL,
            silence_latent if name == CONDITION_ENCODER else None,
        )
        for name, settings in component_settings(config).items()
    }
    vae = folders.root / VAE_FOLDER
    text_encoder = folders.root / TEXT_ENCODER_FOLDER
    shared = {
        VAE: Component(
            VAE,
            ConfigFile.read(vae / "config.json"),
            find_weight_files(vae, "diffusion_pytorch_model"),
            KeyScheme.MODULE,
        ),
        TEXT_ENCODER: Component(
            TEXT_ENCODER,
            ConfigFile.read(text_encoder / "config.json"),
            find_weight_files(text_encoder, "model"),
            KeyScheme.QWEN3,
        ),
    }
    components = own | shared
    return tuple(components[name] for name in (*REQUIRED, *OPTIONAL))


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
