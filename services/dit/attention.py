"""Attention of the diffusion transformer with memory that grows with the length, not with its square.

Half of the transformer's layers look no further than a window. The classes of diffusers express this by a
dense mask of tokens x tokens, which takes most of the memory of a long song; here queries are cut into
blocks, and each block sees only the keys that some query of it may see.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

BLOCK_TOKENS = 256
"""Queries of one block. It reads `BLOCK_TOKENS` + 2 * window keys, so small blocks read keys more often and
large ones compute more scores that the mask then drops."""


def attend_within(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int,
    block_tokens: int = BLOCK_TOKENS,
    *,
    groups_heads: bool = False,
) -> torch.Tensor:
    """Attention in which token i sees the tokens j with abs(i - j) <= window.

    Args:
        query: [items, tokens, heads, head_dim].
        key: [items, tokens, key heads, head_dim]; the heads are a multiple of the key heads.
        value: as `key`.
        scale: of the scores.
        window: tokens on either side.
        block_tokens: queries of one block.
        groups_heads: see `attend`.
    """
    token_count = query.shape[1]
    if token_count <= window + 1:
        return attend(query, key, value, scale, groups_heads=groups_heads)
    if token_count <= 2 * window + block_tokens:
        block_tokens = token_count  # more blocks would read nearly all keys each
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
            groups_heads=groups_heads,
        )
    return attended


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
    *,
    groups_heads: bool = False,
) -> torch.Tensor:
    """Attention of every query over every key, or over those that `mask` [queries, keys] has true.

    Shapes are as in `attend_within`.

    Args:
        query: and the others, as in `attend_within`.
        groups_heads: leave it to the kernel that several heads share a key. That of a CPU is faster so. On
            CUDA only the flash kernel knows how, which needs Ampere, a half type and no mask: everything else
            would fall back to one that keeps all scores, tokens x tokens for every head.
    """
    if not groups_heads:
        groups = query.shape[2] // key.shape[2]
        key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=groups_heads
    )
    return attended.transpose(1, 2)
