"""The shapes of the published models, which are in the package: what they need is known before a download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from acestage.checkpoints.checkpoint import Checkpoint, Component, Layout, WeightFiles
from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.facts import model_facts
from acestage.checkpoints.key_schemes import KeyScheme
from acestage.checkpoints.repositories import find_repository

_FOLDER = Path(__file__).resolve().parents[1] / "models" / "published"


def published_configs(*, is_xl: bool, version: str) -> dict[str, ConfigFile]:
    """Settings of all components by name.

    Args:
        is_xl: the wide transformer with 32 layers, not the one with 24.
        version: "turbo", "base" or "sft".
    """
    transformer = ConfigFile.read(_FOLDER / TRANSFORMER / f"{'xl' if is_xl else 'standard'}.json")
    told_apart = {"is_turbo": version == "turbo", "model_version": version}
    configs = {TRANSFORMER: transformer.replaced({**transformer.values, **told_apart})}
    for path in sorted((_FOLDER / "shared").glob("*.json")):
        configs[path.stem] = ConfigFile.read(path)
    return configs


def published_checkpoint(name: str) -> Checkpoint:
    """The published model that users call `name`, without any file of it: it can be built, not loaded.

    Raises:
        NotFoundError: there is none; lists those that are known.
    """
    folder = find_repository(name).folder
    parts = name.split("-")
    version = next(part for part in parts if part in ("turbo", "base", "sft"))
    configs = published_configs(is_xl=parts[0] == "xl", version=version)
    components = tuple(
        Component(component, config, WeightFiles(()), KeyScheme.MODULE)
        for component, config in configs.items()
    )
    facts = model_facts(folder, configs, is_untrained=False)
    return Checkpoint(_FOLDER, folder, Layout.ORIGINAL, facts, components, _FOLDER)


def language_model_configs() -> Mapping[str, ConfigFile]:
    """Settings of the published 5 Hz language models by size, such as "0.6B", the smallest first."""
    return {path.stem: ConfigFile.read(path) for path in sorted((_FOLDER / "language_model").glob("*.json"))}
