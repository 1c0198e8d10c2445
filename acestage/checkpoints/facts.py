"""Facts about a model, from the settings of its components."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from acestage.checkpoints.checkpoint import ModelFacts
from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TRANSFORMER,
    VAE,
)
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.model_version import is_turbo
from acestage.errors import CheckpointError
from acestage.song_audio import CHANNEL_COUNT, SAMPLE_RATE_HZ


def model_facts(name: str, configs: Mapping[str, ConfigFile], *, is_untrained: bool) -> ModelFacts:
    """The facts about the model called `name`, with settings by component.

    Raises:
        CheckpointError: a setting is missing, or nothing that we compute with or serve.
    """
    transformer, vae = configs[TRANSFORMER], configs[VAE]
    sample_rate_hz = _as_served(vae, "sampling_rate", SAMPLE_RATE_HZ)
    hop_sample_count = math.prod(_even_ratios(vae))
    version = transformer.values.get("model_version")
    turbo = is_turbo(transformer.flag("is_turbo"), version)
    # Older files do not say their version; then the name tells.
    parts = re.split(r"[-_]", str(version or name).lower())
    tokenizer = configs.get(AUDIO_TOKENIZER) if AUDIO_TOKEN_DETOKENIZER in configs else None
    return ModelFacts(
        name=name,
        is_turbo=turbo,
        latent_channel_count=transformer.count("audio_acoustic_hidden_dim"),
        latent_frame_rate_hz=sample_rate_hz / hop_sample_count,
        sample_rate_hz=sample_rate_hz,
        hop_sample_count=hop_sample_count,
        audio_channel_count=_as_served(vae, "audio_channels", CHANNEL_COUNT),
        condition_width=configs[CONDITION_ENCODER].count("hidden_size"),
        is_untrained=is_untrained,
        knows_tracks=not turbo and "sft" not in parts,
        audio_code_count=math.prod(tokenizer.counts("fsq_input_levels")) if tokenizer else 0,
        frames_per_audio_code=tokenizer.count("pool_window_size") if tokenizer else 0,
    )


def _as_served(vae: ConfigFile, key: str, served: int) -> int:
    """The value of `key`. Uploads, exports and streams know no other, and would be heard too fast or slow."""
    value = vae.count(key)
    if value != served:
        raise CheckpointError(f"{vae.path}: {key} is {value}; accepted: {served}")
    return value


def _even_ratios(vae: ConfigFile) -> tuple[int, ...]:
    """By which the VAE makes samples fewer. Those of an odd one would be one short at the end of a song."""
    key = "downsampling_ratios"
    ratios = vae.counts(key)
    if any(ratio % 2 for ratio in ratios):
        raise CheckpointError(f"{vae.path}: {key} is {list(ratios)!r}, expected even numbers")
    return ratios
