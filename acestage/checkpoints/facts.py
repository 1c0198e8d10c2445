"""Facts about a model, from the settings of its components."""

from __future__ import annotations

import math
from collections.abc import Mapping

from acestage.checkpoints.checkpoint import ModelFacts
from acestage.checkpoints.component_names import CONDITION_ENCODER, TRANSFORMER, VAE
from acestage.checkpoints.configs import ConfigFile


def model_facts(name: str, configs: Mapping[str, ConfigFile], *, is_untrained: bool) -> ModelFacts:
    """The facts about the model called `name`, with settings by component.

    Raises:
        CheckpointError: a setting is missing.
    """
    transformer, vae = configs[TRANSFORMER], configs[VAE]
    sample_rate_hz = vae.count("sampling_rate")
    hop_sample_count = math.prod(vae.counts("downsampling_ratios"))
    return ModelFacts(
        name=name,
        is_turbo=transformer.flag("is_turbo") or transformer.values.get("model_version") == "turbo",
        latent_channel_count=transformer.count("audio_acoustic_hidden_dim"),
        latent_frame_rate_hz=sample_rate_hz / hop_sample_count,
        sample_rate_hz=sample_rate_hz,
        hop_sample_count=hop_sample_count,
        condition_width=configs[CONDITION_ENCODER].count("hidden_size"),
        is_untrained=is_untrained,
    )
