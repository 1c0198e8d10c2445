"""Attention of the condition encoder and of the audio codec on a CUDA device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.ace_step_transformer import AceStepAttention, AceStepAttnProcessor2_0

from services.runtime.attention import attend

if TYPE_CHECKING:
    from services.text_encoder.engine import TextEncoderEngine


def repeat_keys(engine: TextEncoderEngine) -> None:
    """Has attention repeat the keys that several heads share.

    There are masks even where nothing is padded, and with these CUDA's kernels of torch would keep all scores
    (`attend` says why).
    """
    codec = engine.audio_codec
    for module in (engine.condition_encoder, *((codec.tokenizer, codec.detokenizer) if codec else ())):
        for part in module.modules():
            if isinstance(part, AceStepAttention):
                part.set_processor(_RepeatedKeys())


class _RepeatedKeys(AceStepAttnProcessor2_0):  # type: ignore[misc]
    """Self-attention as the processor of diffusers has it, but for what `repeat_keys` says."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        assert encoder_hidden_states is None, "there is self-attention alone"
        assert image_rotary_emb is not None, "it rotates queries and keys"
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, attn.head_dim))
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            apply_rotary_emb(norm(states), image_rotary_emb, use_real_unbind_dim=-2, sequence_dim=1)
            for norm, states in ((attn.norm_q, query), (attn.norm_k, key))
        )
        attended = attend(query, key, value, attn.scaling, attention_mask)
        result: torch.Tensor = attn.to_out[0](attended.flatten(2))
        return result
