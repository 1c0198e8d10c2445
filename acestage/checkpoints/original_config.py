"""Translates the `config.json` of a model in the original layout into the settings of diffusers' classes.

Fields as in ACE-Step 1.5's `AceStepConfig`. The XL models have a wider transformer than encoder; their
`encoder_*` fields fall back to the plain ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TRANSFORMER,
)
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.model_version import family_of, is_turbo
from acestage.errors import CheckpointError

MODEL_TYPE = "acestep"
ARCHITECTURE = "AceStepConditionGenerationModel"

_ATTENTION = (
    "head_dim",
    "rope_theta",
    "attention_bias",
    "attention_dropout",
    "rms_norm_eps",
    "sliding_window",
)
_ENCODER_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


def check_family(config: ConfigFile) -> None:
    """Checks that `config` is of a model of the ACE-Step 1.5 family; fields that are not there are fine.

    Raises:
        CheckpointError: it is of another family; says what was found and what is accepted.
    """
    model_type = config.values.get("model_type")
    architectures = config.values.get("architectures")
    version = config.values.get("model_version")
    if model_type not in (None, MODEL_TYPE):
        raise _unknown(config, "model_type", model_type, MODEL_TYPE)
    if architectures and (not isinstance(architectures, list) or ARCHITECTURE not in architectures):
        raise _unknown(config, "architectures", architectures, ARCHITECTURE)
    if version is not None and family_of(version) is None:
        raise _unknown(config, "model_version", version, "turbo, base, sft, xl_turbo, xl_base or xl_sft")


def component_settings(config: ConfigFile) -> Mapping[str, Mapping[str, object]]:
    """Constructor arguments of each component of the model, by component name.

    Raises:
        CheckpointError: a field is missing, or asks for what diffusers' classes do not do.
    """
    if config.values.get("use_sliding_window") is False:
        raise CheckpointError(f"{config.path}: use_sliding_window is false, only true is supported")
    encoder = _encoder_settings(config)
    pooler = {
        **encoder,
        **_copied(
            config, "audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers"
        ),
        "layer_types": _first_layer_types(config, "num_attention_pooler_hidden_layers"),
    }
    return {
        TRANSFORMER: {
            **_copied(config, *_ENCODER_WIDTHS, *_ATTENTION),
            **_copied(config, "num_hidden_layers", "in_channels", "audio_acoustic_hidden_dim", "patch_size"),
            "layer_types": _first_layer_types(config, "num_hidden_layers"),
            "encoder_hidden_size": encoder["hidden_size"],
            "is_turbo": is_turbo(config.flag("is_turbo"), config.values.get("model_version")),
            "model_version": config.values.get("model_version"),
        },
        CONDITION_ENCODER: {
            **encoder,
            **_copied(config, "text_hidden_dim", "timbre_hidden_dim"),
            **_copied(config, "num_lyric_encoder_hidden_layers", "num_timbre_encoder_hidden_layers"),
            "layer_types": _first_layer_types(config, "num_lyric_encoder_hidden_layers"),
        },
        AUDIO_TOKENIZER: {
            **pooler,
            **_copied(config, "fsq_dim", "fsq_input_levels", "fsq_input_num_quantizers"),
        },
        AUDIO_TOKEN_DETOKENIZER: pooler,
    }


def _encoder_settings(config: ConfigFile) -> dict[str, object]:
    widths = {key: config.values.get(f"encoder_{key}") or config.required(key) for key in _ENCODER_WIDTHS}
    return {**widths, **_copied(config, *_ATTENTION)}


def _copied(config: ConfigFile, *keys: str) -> dict[str, object]:
    return {key: config.required(key) for key in keys}


def _first_layer_types(config: ConfigFile, layer_count_key: str) -> object:
    """Every stack of layers takes its kinds from the front of the same list; without one they alternate."""
    layer_types = config.values.get("layer_types")
    layer_count = config.count(layer_count_key)
    if layer_types is None:
        return None
    if not isinstance(layer_types, list) or len(layer_types) < layer_count:
        raise CheckpointError(
            f"{config.path}: layer_types is {layer_types!r}, expected a list of at least {layer_count}"
        )
    return layer_types[:layer_count]


def _unknown(config: ConfigFile, key: str, found: object, accepted: str) -> CheckpointError:
    return CheckpointError(f"{config.path}: unknown variant: {key} is {found!r}, accepted: {accepted}")
