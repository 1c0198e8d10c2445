"""The components of a model, named as in a diffusers pipeline."""

from __future__ import annotations

TRANSFORMER = "transformer"
CONDITION_ENCODER = "condition_encoder"
VAE = "vae"
TEXT_ENCODER = "text_encoder"
AUDIO_TOKENIZER = "audio_tokenizer"
AUDIO_TOKEN_DETOKENIZER = "audio_token_detokenizer"

REQUIRED = (TRANSFORMER, CONDITION_ENCODER, VAE, TEXT_ENCODER)
OPTIONAL = (AUDIO_TOKENIZER, AUDIO_TOKEN_DETOKENIZER)
