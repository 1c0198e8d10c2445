"""Attention with the whole mask at once, as diffusers builds it."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def dense_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Every query sees the keys that are at most `window` tokens away; None: all.

    Args:
        query: [items, tokens, heads, head_dim].
        key: [items, keys, key heads, head_dim]; the heads are a multiple of the key heads.
        value: as `key`.
        window: where there are as many keys as tokens.
    """
    mask = None
    if window is not None:
        index = torch.arange(query.shape[1])
        mask = (index[:, None] - index[None, :]).abs() <= window
    groups = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    states = (states.transpose(1, 2) for states in (query, key, value))
    return scaled_dot_product_attention(*states, attn_mask=mask).transpose(1, 2)
