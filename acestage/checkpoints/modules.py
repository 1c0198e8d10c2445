"""Builds the module of a component on the meta device: its keys and shapes, without memory for weights."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from diffusers.pipelines.ace_step.modeling_ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from huggingface_hub.errors import StrictDataclassError
from transformers import Qwen3Config, Qwen3Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from acestage.checkpoints.checkpoint import Component
from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
)
from acestage.checkpoints.configs import ConfigFile
from acestage.errors import CheckpointError

log = logging.getLogger(__name__)

BUILD_ERRORS = (
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    StrictDataclassError,
)
"""What classes of libraries raise for settings that are of a wrong type or do not go together."""

_DIFFUSERS_CLASSES: dict[str, Callable[..., torch.nn.Module]] = {
    TRANSFORMER: AceStepTransformer1DModel,
    CONDITION_ENCODER: AceStepConditionEncoder,
    VAE: AutoencoderOobleck,
    AUDIO_TOKENIZER: AceStepAudioTokenizer,
    AUDIO_TOKEN_DETOKENIZER: AceStepAudioTokenDetokenizer,
}


def build_module(component: Component) -> torch.nn.Module:
    """The module of `component`, in eval mode, with parameters and persistent buffers on the meta device.

    Buffers that no file holds are made on the CPU.

    Raises:
        CheckpointError: its configuration does not describe a module.
    """
    config = component.config
    try:
        with torch.device("meta"), warnings.catch_warnings():
            # The VAE of diffusers is built on this; nothing that a user could do about it.
            warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm`", FutureWarning)
            module = _on_current_device(component.name, config)
        _make_derived_buffers(module)
    except BUILD_ERRORS as error:
        raise CheckpointError(f"{config.path}: does not describe a {component.name}: {error}") from error
    return module.eval()


def _on_current_device(name: str, config: ConfigFile) -> torch.nn.Module:
    if name == TEXT_ENCODER:
        if config.values.get("model_type") != Qwen3Config.model_type:
            raise ValueError(
                f"model_type is {config.values.get('model_type')!r}, expected {Qwen3Config.model_type}"
            )
        text_encoder: torch.nn.Module = Qwen3Model(Qwen3Config.from_dict(dict(config.values)))
        return text_encoder
    cls = _DIFFUSERS_CLASSES[name]
    accepted = inspect.signature(cls).parameters
    settings = {key: value for key, value in config.values.items() if not key.startswith("_")}
    unknown = sorted(settings.keys() - accepted.keys())
    if unknown:
        # Newer files may have more settings; those that matter for weights show in keys and shapes.
        log.warning("%s: settings without an effect: %s", config.path, ", ".join(unknown))
    return cls(**{key: value for key, value in settings.items() if key in accepted})


def _make_derived_buffers(module: torch.nn.Module) -> None:
    """Replaces what was built on the meta device but comes from settings, not from a file."""
    if isinstance(module, Qwen3Model):
        module.rotary_emb = Qwen3RotaryEmbedding(module.config)
    elif isinstance(module, AceStepAudioTokenizer):
        quantizer = module.quantizer
        fresh = type(quantizer)(
            dim=module.config.fsq_dim, levels=quantizer.levels, num_quantizers=quantizer.num_quantizers
        )
        for name, buffer in fresh.named_buffers():
            quantizer.register_buffer(name, buffer, persistent=False)
