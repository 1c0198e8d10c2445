"""Settings of every component for each size, in terms of the classes that host them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
)
from acestage.checkpoints.published import published_configs

Size = Literal["tiny", "tiny-xl", "full", "xl"]
Variant = Literal["turbo", "base"]
Settings = dict[str, Any]

# The same in all sizes, so that durations, frames and samples are those of the published model.
_DOWNSAMPLING_RATIOS = [2, 4, 4, 6, 10]
_SAMPLE_RATE_HZ = 48_000
_FSQ_LEVELS = [8, 8, 8, 5, 5, 5]
_POOL_WINDOW = 5


def model_settings(size: Size, variant: Variant) -> dict[str, Settings]:
    """Settings of all components by name."""
    return _SIZES[size](variant)


def _tiny(variant: Variant) -> dict[str, Settings]:
    widths = _widths(hidden=64, intermediate=128, heads=4)
    return _tiny_around(widths, variant)


def _tiny_xl(variant: Variant) -> dict[str, Settings]:
    """Shaped like the XL models, whose transformer is wider than the encoder that feeds it."""
    return _tiny_around(_widths(hidden=96, intermediate=160, heads=8), variant)


def _tiny_around(transformer_widths: Settings, variant: Variant) -> dict[str, Settings]:
    # The window is shorter than 10 s of patches, so that it matters in short tests.
    return _model(
        variant,
        attention=_attention(head_dim=16, sliding_window=16),
        transformer_widths=transformer_widths,
        encoder_widths=_widths(hidden=64, intermediate=128, heads=4),
        layer_counts={"transformer": 4, "lyric": 2, "timbre": 2, "pooler": 2},
        latent_channels=8,
        # Multiples of the published VAE would make its encoder larger than all else together.
        vae={"decoder_channels": 4, "channel_multiples": [1, 2, 4, 4, 4]},
        text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512},
    )  # fmt: skip


def _full(variant: Variant) -> dict[str, Settings]:
    return _published(variant, is_xl=False)


def _xl(variant: Variant) -> dict[str, Settings]:
    return _published(variant, is_xl=True)


def _published(variant: Variant, *, is_xl: bool) -> dict[str, Settings]:
    configs = published_configs(is_xl=is_xl, version=variant)
    return {name: dict(config.values) for name, config in configs.items()}


_SIZES: dict[Size, Callable[[Variant], dict[str, Settings]]] = {
    "tiny": _tiny,
    "tiny-xl": _tiny_xl,
    "full": _full,
    "xl": _xl,
}


def _widths(*, hidden: int, intermediate: int, heads: int) -> Settings:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
    }


def _attention(*, head_dim: int, sliding_window: int) -> Settings:
    return {
        "head_dim": head_dim,
        "rope_theta": 1_000_000,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-6,
        "sliding_window": sliding_window,
    }


def _model(
    variant: Variant,
    *,
    attention: Settings,
    transformer_widths: Settings,
    encoder_widths: Settings,
    layer_counts: dict[str, int],
    latent_channels: int,
    vae: Settings,
    text: Settings,
) -> dict[str, Settings]:
    pooler = {
        **attention,
        **encoder_widths,
        "audio_acoustic_hidden_dim": latent_channels,
        "pool_window_size": _POOL_WINDOW,
        "num_attention_pooler_hidden_layers": layer_counts["pooler"],
        "layer_types": _alternating(layer_counts["pooler"]),
    }
    return {
        TRANSFORMER: {
            **attention,
            **transformer_widths,
            "num_hidden_layers": layer_counts["transformer"],
            # Noisy latents, source latents and the mask of what to generate, side by side.
            "in_channels": 3 * latent_channels,
            "audio_acoustic_hidden_dim": latent_channels,
            "patch_size": 2,
            "layer_types": _alternating(layer_counts["transformer"]),
            "encoder_hidden_size": encoder_widths["hidden_size"],
            "is_turbo": variant == "turbo",
            "model_version": variant,
        },
        CONDITION_ENCODER: {
            **attention,
            **encoder_widths,
            "text_hidden_dim": text["hidden_size"],
            "timbre_hidden_dim": latent_channels,
            "num_lyric_encoder_hidden_layers": layer_counts["lyric"],
            "num_timbre_encoder_hidden_layers": layer_counts["timbre"],
            "layer_types": _alternating(layer_counts["lyric"]),
        },
        AUDIO_TOKENIZER: {
            **pooler,
            "fsq_dim": encoder_widths["hidden_size"],
            "fsq_input_levels": _FSQ_LEVELS,
            "fsq_input_num_quantizers": 1,
        },
        AUDIO_TOKEN_DETOKENIZER: pooler,
        VAE: {
            "audio_channels": 2,
            "decoder_input_channels": latent_channels,
            "downsampling_ratios": _DOWNSAMPLING_RATIOS,
            # Mean and scale of every latent channel.
            "encoder_hidden_size": 2 * latent_channels,
            "sampling_rate": _SAMPLE_RATE_HZ,
            **vae,
        },
        TEXT_ENCODER: {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "max_position_embeddings": 32_768,
            "max_window_layers": text["num_hidden_layers"],
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            **text,
        },
    }


def _alternating(layer_count: int) -> list[str]:
    return ["full_attention" if index % 2 else "sliding_attention" for index in range(layer_count)]
