"""Prompt, source and reference to conditioning. Plain classes: no gRPC, no processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from transformers import PreTrainedTokenizerFast, Qwen3Model

from acestage.errors import FailedPreconditionError
from services.runtime.finite import check_finite
from services.text_encoder.audio_codec import AudioCodec
from services.text_encoder.encode_job import EncodeJob, timbre_frame_count
from services.text_encoder.prompt import MAX_LYRICS_TOKENS, MAX_TEXT_TOKENS, TEXT_TO_MUSIC_INSTRUCTION, Prompt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """All that the diffusion transformer needs but the noise, in the encoder's data type.

    Attributes:
        encoder_hidden_states: [1, tokens, width]: lyrics, timbre and text, packed.
        null_condition: [1, 1, width]: learned unconditional embedding.
        context_latents: [1, frames, 2 * channels]: source latents, and the chunk mask: ones where a frame is
            to be generated, zeros elsewhere.
        plain_hidden_states: [1, tokens, width]: the same as `encoder_hidden_states` with the instruction of
            the text-to-music task; None where they were not asked for.
    """

    encoder_hidden_states: torch.Tensor
    null_condition: torch.Tensor
    context_latents: torch.Tensor
    plain_hidden_states: torch.Tensor | None = None


class TextEncoderEngine:
    """Tokenizer, Qwen3, the condition encoder and, where the checkpoint has one, the audio codec."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: Qwen3Model,
        condition_encoder: AceStepConditionEncoder,
        audio_codec: AudioCodec | None = None,
        *,
        latent_frame_rate_hz: float,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.condition_encoder = condition_encoder
        self.audio_codec = audio_codec
        self._timbre_frame_count = timbre_frame_count(latent_frame_rate_hz)

    def encode(
        self,
        job: EncodeJob,
        source_latents: torch.Tensor | None = None,
        reference_latents: torch.Tensor | None = None,
    ) -> EncodedPrompt:
        """Encodes `job`.

        Args:
            job: what is asked for.
            source_latents: [1, frames, channels] of the source audio, as many frames as the song; None where
                the source is silence or `job` has codes.
            reference_latents: [1, frames, channels] of the reference audio; None for silence.

        Raises:
            FailedPreconditionError: `job` needs an audio codec, and there is none.
            NonFiniteError: it overflowed float16.
        """
        # The source first: what it takes is free again when the prompt needs most.
        source = self._source(job, source_latents)
        states, plain_states = self._hidden_states(job, reference_latents)
        mask = torch.zeros_like(source)
        mask[:, job.window] = 1.0
        return EncodedPrompt(
            encoder_hidden_states=states,
            null_condition=self.condition_encoder.null_condition_emb,
            context_latents=torch.cat([source, mask], dim=-1),
            plain_hidden_states=plain_states,
        )

    def tokenize(self, source_latents: torch.Tensor) -> list[int]:
        """The audio codes of `source_latents` [1, frames, channels]; silence fills up the last group.

        Raises:
            FailedPreconditionError: there is no audio codec.
            NonFiniteError: it overflowed float16.
        """
        silence = self.condition_encoder.silence_latent
        return self._required_codec().codes(source_latents.to(silence), silence)

    def _source(self, job: EncodeJob, given: torch.Tensor | None) -> torch.Tensor:
        """The source latents [1, frames, channels] as the transformer gets them."""
        silence = self.condition_encoder.silence_latent
        if job.audio_codes:
            source = self._required_codec().latents(job.audio_codes, silence.device, silence.dtype)
        elif given is None:
            source = _repeat_to(silence, job.frame_count)
        elif job.through_codes:
            source = self._required_codec().round_trip(given.to(silence), silence)
        else:
            source = given.to(silence)
        if job.silence_window:
            start, stop = job.window.start, job.window.stop
            quiet = _repeat_to(silence, stop)[:, start:]
            source = torch.cat([source[:, :start], quiet, source[:, stop:]], dim=1)
        check_finite(source, "text_encoder", "the source latents")
        return source

    def _hidden_states(
        self, job: EncodeJob, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Lyrics, timbre and text, packed: [1, tokens, width]; the same with the plain text, if asked for."""
        encoder = self.condition_encoder
        silence = encoder.silence_latent
        timbre = silence[:, : self._timbre_frame_count] if reference is None else reference.to(silence)
        text_states, text_mask = self._text_states(job.prompt)
        lyric_ids, lyric_mask = self._tokens(job.prompt.lyrics_text(), MAX_LYRICS_TOKENS)
        states, _ = encoder(
            text_hidden_states=text_states,
            text_attention_mask=text_mask,
            # The lyric encoder does its own context: it reads token embeddings.
            lyric_hidden_states=self.text_encoder.get_input_embeddings()(lyric_ids),
            lyric_attention_mask=lyric_mask,
            refer_audio_acoustic_hidden_states_packed=timbre,
            refer_audio_order_mask=torch.zeros(1, device=silence.device, dtype=torch.long),
        )
        check_finite(states, "text_encoder", "the hidden states of the prompt")
        if not job.with_plain:
            return states, None
        plain_prompt = replace(job.prompt, instruction=TEXT_TO_MUSIC_INSTRUCTION)
        plain_text_states, _ = self._text_states(plain_prompt)
        # Nothing is padded, so the text comes last, and what is before it does not depend on it.
        before_text = states[:, : -text_mask.shape[1]]
        plain_states = torch.cat([before_text, encoder.text_projector(plain_text_states)], dim=1)
        check_finite(plain_states, "text_encoder", "the hidden states of the plain prompt")
        return states, plain_states

    def _text_states(self, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = self._tokens(prompt.text(), MAX_TEXT_TOKENS)
        return self.text_encoder(input_ids=ids, use_cache=False).last_hidden_state, mask

    def _tokens(self, text: str, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self.tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="pt")
        device = self.text_encoder.device
        return encoded.input_ids.to(device), encoded.attention_mask.to(device).bool()

    def _required_codec(self) -> AudioCodec:
        if self.audio_codec is None:
            raise FailedPreconditionError(
                "audio codes need an audio tokenizer and detokenizer; there is none"
            )
        return self.audio_codec


def _repeat_to(latents: torch.Tensor, frame_count: int) -> torch.Tensor:
    """The first `frame_count` frames of [1, frames, channels], repeated from the start where too short."""
    if frame_count > latents.shape[1]:
        latents = latents.repeat(1, math.ceil(frame_count / latents.shape[1]), 1)
    return latents[:, :frame_count]
