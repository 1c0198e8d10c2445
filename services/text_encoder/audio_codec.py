"""Latents to audio codes and back, by two modules that are on the device only while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import torch
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer

from services.runtime.finite import check_finite
from services.runtime.weights.borrowed import borrowed

CODES_AT_ONCE = 256
"""Codes that go through a module together. More are hardly faster; so, memory does not grow with the song."""

# The modules of diffusers have no types.
_Tokenize = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class AudioCodec:
    """The audio tokenizer and detokenizer of a checkpoint.

    An audio code stands for a group of consecutive latent frames. Both modules look at each group by itself,
    so it makes no difference how many groups go through them together.
    """

    def __init__(self, tokenizer: AceStepAudioTokenizer, detokenizer: AceStepAudioTokenDetokenizer) -> None:
        self.tokenizer = tokenizer
        self.detokenizer = detokenizer

    def codes(self, latents: torch.Tensor, silence: torch.Tensor) -> list[int]:
        """The codes of `latents` [1, frames, channels]; `silence` fills up the last group.

        They are those of the first quantizer, which is the only one in the published models.

        Raises:
            NonFiniteError: it overflowed float16.
        """
        indices = [indices[0, :, 0] for _, indices in self._tokenized(latents, silence)]
        return torch.cat(indices).tolist()

    def round_trip(self, latents: torch.Tensor, silence: torch.Tensor) -> torch.Tensor:
        """What is left of `latents` [1, frames, channels] in their codes, in the same shape.

        Raises:
            NonFiniteError: it overflowed float16.
        """
        quantized = [quantized for quantized, _ in self._tokenized(latents, silence)]
        return self._detokenized(quantized, latents.device, latents.dtype)[:, : latents.shape[1]]

    def latents(self, codes: Sequence[int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """The latents [1, frames, channels] that `codes` stand for, on `device` in `dtype`.

        Quantizers after the first, which the published models do not have, get the code 0, as in the
        pipeline of diffusers.
        """
        quantizer = self.tokenizer.quantizer
        indices = torch.zeros(1, len(codes), quantizer.num_quantizers, dtype=torch.long, device=device)
        indices[0, :, 0] = torch.tensor(codes, device=device)
        with borrowed(quantizer, device, dtype) as placed:
            decode = cast(Callable[[torch.Tensor], torch.Tensor], placed.get_output_from_indices)
            quantized = [decode(some) for some in _parts(indices, CODES_AT_ONCE)]
        return self._detokenized(quantized, device, dtype)

    def _tokenized(
        self, latents: torch.Tensor, silence: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Quantized features [1, codes, width] and codes [1, codes, quantizers], some at a time."""
        with borrowed(self.tokenizer, latents.device, latents.dtype) as tokenizer:
            tokenize = cast(_Tokenize, tokenizer.tokenize)
            for some in _parts(latents, CODES_AT_ONCE * self.tokenizer.pool_window_size):
                quantized, indices = tokenize(some, silence)
                check_finite(quantized, "text_encoder", "the audio codes of the source")
                yield quantized, indices

    def _detokenized(
        self, quantized: Iterable[torch.Tensor], device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        with borrowed(self.detokenizer, device, dtype) as detokenizer:
            return torch.cat([detokenizer(some) for some in quantized], dim=1)


def _parts(tensor: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """`tensor` [1, length, ...] in parts of `size` along its length."""
    for start in range(0, tensor.shape[1], size):
        yield tensor[:, start : start + size]
