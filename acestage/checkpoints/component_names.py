"""The components of a model, named as in a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping

TRANSFORMER = "transformer"
CONDITION_ENCODER = "condition_encoder"
VAE = "vae"
TEXT_ENCODER = "text_encoder"
AUDIO_TOKENIZER = "audio_tokenizer"
AUDIO_TOKEN_DETOKENIZER = "audio_token_detokenizer"

REQUIRED = (TRANSFORMER, CONDITION_ENCODER, VAE, TEXT_ENCODER)
OPTIONAL = (AUDIO_TOKENIZER, AUDIO_TOKEN_DETOKENIZER)

COMPONENTS_OF_STAGES: Mapping[str, tuple[str, ...]] = {
    "text_encoder": (TEXT_ENCODER, CONDITION_ENCODER, AUDIO_TOKENIZER, AUDIO_TOKEN_DETOKENIZER),
    "dit": (TRANSFORMER,),
    "vae": (VAE,),
}
"""Those that each stage loads, if they are there."""
