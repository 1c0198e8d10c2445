"""Prompt to conditioning. Plain classes: no gRPC, no processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from transformers import PreTrainedTokenizerFast, Qwen3Model

from services.runtime.finite import check_finite
from services.text_encoder.prompt import MAX_LYRICS_TOKENS, MAX_TEXT_TOKENS, Prompt

TIMBRE_REFERENCE_S = 30.0
"""Seconds of (silent) reference audio that the timbre encoder reads, as it was trained."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """All that the diffusion transformer needs but the noise, in the encoder's data type.

    Attributes:
        encoder_hidden_states: [1, tokens, width]: lyrics, timbre and text, packed.
        null_condition: [1, 1, width]: learned unconditional embedding.
        context_latents: [1, frames, 2 * channels]: silence as source latents, and a chunk mask of ones:
            every frame is to be generated.
    """

    encoder_hidden_states: torch.Tensor
    null_condition: torch.Tensor
    context_latents: torch.Tensor


class TextEncoderEngine:
    """Tokenizer, Qwen3 and the condition encoder."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: Qwen3Model,
        condition_encoder: AceStepConditionEncoder,
        *,
        latent_frame_rate_hz: float,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.condition_encoder = condition_encoder
        self._timbre_frame_count = math.ceil(TIMBRE_REFERENCE_S * latent_frame_rate_hz)

    def encode(self, prompt: Prompt, frame_count: int) -> EncodedPrompt:
        """Encodes `prompt` for `frame_count` latent frames of music.

        Raises:
            NonFiniteError: it overflowed float16.
        """
        encoder = self.condition_encoder
        silence = encoder.silence_latent
        text_ids, text_mask = self._tokenize(prompt.text(), MAX_TEXT_TOKENS)
        lyric_ids, lyric_mask = self._tokenize(prompt.lyrics_text(), MAX_LYRICS_TOKENS)
        states, _ = encoder(
            text_hidden_states=self.text_encoder(input_ids=text_ids).last_hidden_state,
            text_attention_mask=text_mask,
            # The lyric encoder does its own context: it reads token embeddings.
            lyric_hidden_states=self.text_encoder.get_input_embeddings()(lyric_ids),
            lyric_attention_mask=lyric_mask,
            refer_audio_acoustic_hidden_states_packed=silence[:, : self._timbre_frame_count],
            refer_audio_order_mask=torch.zeros(1, device=silence.device, dtype=torch.long),
        )
        check_finite(states, "text_encoder", "the hidden states of the prompt")
        source = _repeat_to(silence, frame_count)
        return EncodedPrompt(
            encoder_hidden_states=states,
            null_condition=encoder.null_condition_emb,
            context_latents=torch.cat([source, torch.ones_like(source)], dim=-1),
        )

    def _tokenize(self, text: str, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self.tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="pt")
        device = self.text_encoder.device
        return encoded.input_ids.to(device), encoded.attention_mask.to(device).bool()


def _repeat_to(latents: torch.Tensor, frame_count: int) -> torch.Tensor:
    """The first `frame_count` frames of [1, frames, channels], repeated from the start where too short."""
    repeats = math.ceil(frame_count / latents.shape[1])
    return latents.repeat(1, repeats, 1)[:, :frame_count]
