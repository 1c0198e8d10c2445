"""Attention of the diffusion transformer with memory that grows with the length, not with its square.

Half of the transformer's layers look no further than a window. The classes of diffusers express this by a
dense mask of tokens x tokens, which takes most of the memory of a long song; here queries are cut into
blocks, and each block sees only the keys that some query of it may see.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch.nn.functional import scaled_dot_product_attention

from services.dit.tokens import CHUNK_TOKENS

BLOCK_TOKENS = 256
"""Queries of one block. It reads `BLOCK_TOKENS` + 2 * window keys, so small blocks read keys more often and
large ones compute more scores that the mask then drops."""


class WindowedAttentionProcessor:
    """Computes what `AceStepAttnProcessor2_0` of diffusers does, up to rounding.

    For the transformer alone: there every query of a layer without a window sees every key, so no layer needs
    a mask from outside.
    """

    # `AceStepTransformer1DModel.forward` builds its dense mask unless the processor says that it runs a flash
    # kernel, which takes the window as a number. This one takes the window from the layer as well.
    _attention_backend = "flash"

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attention of `hidden_states` [items, tokens, width] over itself or over `encoder_hidden_states`."""
        if attention_mask is not None:
            raise ValueError("the transformer sees all tokens: there is no mask to apply")
        if attn.is_cross_attention and encoder_hidden_states is not None:
            attended = _attended(attn, hidden_states, encoder_hidden_states, None)
        else:
            attended = _attended(attn, hidden_states, hidden_states, image_rotary_emb)
        return _project_out(attn.to_out[0], attended.flatten(2))


def _attended(
    attn: Any,
    states: torch.Tensor,
    source: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """[items, tokens, heads, head_dim]; a function, so that query, key and value end with it."""
    query = _project(attn.to_q, attn.norm_q, states, attn.heads, rotary)
    key = _project(attn.to_k, attn.norm_k, source, attn.kv_heads, rotary)
    value = _project(attn.to_v, None, source, attn.kv_heads, None)
    if attn.sliding_window is None:
        return attend(query, key, value, attn.scaling)
    return attend_within(query, key, value, attn.scaling, attn.sliding_window)


def attend_within(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int,
    block_tokens: int = BLOCK_TOKENS,
) -> torch.Tensor:
    """Attention in which token i sees the tokens j with abs(i - j) <= window.

    Args:
        query: [items, tokens, heads, head_dim].
        key: [items, tokens, key heads, head_dim]; the heads are a multiple of the key heads.
        value: as `key`.
        scale: of the scores.
        window: tokens on either side.
        block_tokens: queries of one block.
    """
    token_count = query.shape[1]
    if token_count <= window + 1:
        return attend(query, key, value, scale)
    # Row r is query `start + r`, and column c is key `start - window + c`: the same for every block.
    rows = torch.arange(min(block_tokens, token_count), device=query.device)[:, None]
    columns = torch.arange(rows.shape[0] + 2 * window, device=query.device)[None, :]
    band = (columns >= rows) & (columns <= rows + 2 * window)
    attended = torch.empty_like(query)
    for start in range(0, token_count, block_tokens):
        stop = min(start + block_tokens, token_count)
        first, last = max(0, start - window), min(token_count, stop + window)
        left = start - window
        attended[:, start:stop] = attend(
            query[:, start:stop],
            key[:, first:last],
            value[:, first:last],
            scale,
            band[: stop - start, first - left : last - left],
        )
    return attended


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of every query over every key, or over those that `mask` [queries, keys] has true.

    Shapes are as in `attend_within`.
    """
    # Not `enable_gqa`: on CUDA only the flash kernel knows it, which needs Ampere, a half type and no mask.
    # Everything else would fall back to one that keeps all scores, tokens x tokens for every head.
    groups = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def _project(
    projection: torch.nn.Module,
    norm: torch.nn.Module | None,
    states: torch.Tensor,
    head_count: int,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """[items, tokens, width] to [items, tokens, heads, head_dim], normed and rotated, chunk by chunk.

    Norm and rotary embedding take float32 copies: of a chunk alone.
    """
    chunks = []
    for start in range(0, states.shape[1], CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        heads = projection(states[:, part]).unflatten(-1, (head_count, -1))
        if norm is not None:
            heads = norm(heads)
        if rotary is not None:
            cos, sin = rotary
            heads = apply_rotary_emb(
                heads, (cos[part], sin[part]), use_real=True, use_real_unbind_dim=-2, sequence_dim=1
            )
        chunks.append(heads)
    return torch.cat(chunks, dim=1)


def _project_out(projection: torch.nn.Module, attended: torch.Tensor) -> torch.Tensor:
    """[items, tokens, heads * head_dim] to [items, tokens, width], chunk by chunk.

    An adapter on `projection` takes temporaries as large as its result: those of a chunk alone.
    """
    token_count = attended.shape[1]
    output: torch.Tensor = projection(attended[:, :CHUNK_TOKENS])
    if token_count <= CHUNK_TOKENS:
        return output
    first, output = output, output.new_empty(output.shape[0], token_count, output.shape[2])
    output[:, :CHUNK_TOKENS] = first
    for start in range(CHUNK_TOKENS, token_count, CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        output[:, part] = projection(attended[:, part])
    return output
