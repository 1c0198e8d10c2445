"""Prompt, source and reference to conditioning. Plain classes: no gRPC, no processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from transformers import PreTrainedTokenizerFast, Qwen3Model

from acestage.errors import FailedPreconditionError
from services.runtime.finite import check_finite
from services.runtime.weights.borrowed import borrowed_by_layers
from services.text_encoder.audio_codec import AudioCodec
from services.text_encoder.encode_job import EncodeJob, timbre_frame_count
from services.text_encoder.prompt import MAX_LYRICS_TOKENS, MAX_TEXT_TOKENS, TEXT_TO_MUSIC_INSTRUCTION, Prompt
from services.text_encoder.silent_timbre import SilentTimbre

LEFT_OUT = ("embed_tokens", "timbre_encoder")
"""The parts of Qwen3 and of the condition encoder that are not placed, 30 % of all weights: a prompt needs
the rows of its own tokens, and a timbre is computed for a reference, or once for all songs without one."""


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
    """Tokenizer, Qwen3, the condition encoder and, where the checkpoint has one, the audio codec.

    Attributes:
        silent_timbre: where the timbre of silence is kept; None: it is computed for every prompt.
    """

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
        self.silent_timbre: SilentTimbre | None = None
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
        text = self._text(job.prompt)
        lyric_rows, lyric_mask = self._tokens(job.prompt.lyrics_text(), MAX_LYRICS_TOKENS)
        lyrics = encoder.lyric_encoder(
            # It does its own context: it reads token embeddings.
            inputs_embeds=lyric_rows,
            attention_mask=lyric_mask,
        )
        timbre = self._timbre(reference)
        # As diffusers packs them, where nothing is padded.
        states = torch.cat([lyrics, timbre, text], dim=1)
        check_finite(states, "text_encoder", "the hidden states of the prompt")
        if not job.with_plain:
            return states, None
        plain_text = self._text(replace(job.prompt, instruction=TEXT_TO_MUSIC_INSTRUCTION))
        plain_states = torch.cat([lyrics, timbre, plain_text], dim=1)
        check_finite(plain_states, "text_encoder", "the hidden states of the plain prompt")
        return states, plain_states

    def _timbre(self, reference: torch.Tensor | None) -> torch.Tensor:
        """The timbre [1, 1, width] of `reference`, or of silence."""
        silence, kept = self.condition_encoder.silence_latent, self.silent_timbre
        if reference is None and kept is not None and (found := kept.get(silence.device)) is not None:
            return found
        parts: Any = self.condition_encoder
        with borrowed_by_layers(parts.timbre_encoder, silence.device, silence.dtype) as timbre_encoder:
            timbre, _ = timbre_encoder(
                silence[:, : self._timbre_frame_count] if reference is None else reference.to(silence),
                torch.zeros(1, device=silence.device, dtype=torch.long),
            )
        assert isinstance(timbre, torch.Tensor)
        if reference is None and kept is not None:
            check_finite(timbre, "text_encoder", "the timbre of silence")
            kept.keep(timbre)
        return timbre

    def _text(self, prompt: Prompt) -> torch.Tensor:
        """The text [1, tokens, width] as the transformer gets it."""
        rows, _ = self._tokens(prompt.text(), MAX_TEXT_TOKENS)
        states = self.text_encoder(inputs_embeds=rows, use_cache=False).last_hidden_state
        projected: torch.Tensor = self.condition_encoder.text_projector(states)
        return projected

    def _tokens(self, text: str, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The embeddings of the tokens [1, tokens, width], and which of them are no padding [1, tokens]."""
        encoded = self.tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="pt")
        rows = self.text_encoder.get_input_embeddings()(encoded.input_ids)
        silence = self.condition_encoder.silence_latent
        return rows.to(silence), encoded.attention_mask.to(silence.device).bool()

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
