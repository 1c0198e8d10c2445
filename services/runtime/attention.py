"""Attention by the kernel of torch that keeps the least memory."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
    *,
    groups_heads: bool = False,
) -> torch.Tensor:
    """Attention of every query over every key; `mask` is added to the scores.

    Args:
        query: [items, tokens, heads, head_dim].
        key: [items, keys, key heads, head_dim]; the heads are a multiple of the key heads.
        value: as `key`.
        scale: what the scores are multiplied by.
        mask: broadcasts to [items, heads, tokens, keys]; None: nothing is added.
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
