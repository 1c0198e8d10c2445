"""The diffusers layout: `model_index.json` and a folder for each component."""

from __future__ import annotations

from pathlib import Path

from acestage.checkpoints.checkpoint import Component
from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    OPTIONAL,
    REQUIRED,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
)
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.key_schemes import KeyScheme
from acestage.checkpoints.weight_files import find_weight_files
from acestage.errors import CheckpointError

INDEX_FILE = "model_index.json"
TOKENIZER_FOLDER = "tokenizer"

_PIPELINE_CLASS = "AceStepPipeline"
_CLASSES = {
    TRANSFORMER: "AceStepTransformer1DModel",
    CONDITION_ENCODER: "AceStepConditionEncoder",
    VAE: "AutoencoderOobleck",
    AUDIO_TOKENIZER: "AceStepAudioTokenizer",
    AUDIO_TOKEN_DETOKENIZER: "AceStepAudioTokenDetokenizer",
}


def read_diffusers(path: Path) -> tuple[Component, ...]:
    """The components of the pipeline in `path`.

    Raises:
        CheckpointError: it is another pipeline, or a file of it is missing.
    """
    _check_class(ConfigFile.read(path / INDEX_FILE), _PIPELINE_CLASS)
    optional = [name for name in OPTIONAL if (path / name / "config.json").is_file()]
    return tuple(_read_component(path / name, name) for name in (*REQUIRED, *optional))


def _read_component(folder: Path, name: str) -> Component:
    config = ConfigFile.read(folder / "config.json")
    if name == TEXT_ENCODER:
        return Component(name, config, find_weight_files(folder, "model"), KeyScheme.QWEN3)
    _check_class(config, _CLASSES[name])
    return Component(name, config, find_weight_files(folder, "diffusion_pytorch_model"), KeyScheme.MODULE)


def _check_class(config: ConfigFile, accepted: str) -> None:
    found = config.values.get("_class_name", accepted)
    if found != accepted:
        raise CheckpointError(
            f"{config.path}: unknown variant: _class_name is {found!r}, accepted: {accepted}"
        )
