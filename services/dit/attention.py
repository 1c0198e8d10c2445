"""Attention of the diffusion transformer with memory that grows with the length, not with its square.

Half of the transformer's layers look no further than a window. The classes of diffusers express this by a
dense mask of tokens x tokens, which takes most of the memory of a long song; here queries are cut into
blocks, and each block sees only the keys that some query of it may see. `native_attention` does the same in
C++, on the processors that it is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from services.dit import native_attention
from services.runtime.attention import attend

BLOCK_TOKENS = 256
"""Queries of one block. It reads `BLOCK_TOKENS` + 2 * window keys, so small blocks read keys more often and
large ones compute more scores that the mask then drops."""


@dataclass(frozen=True, slots=True)
class Window:
    """The keys that queries may see: those of at most `width` tokens on either side.

    Attributes:
        mask: [queries of a block, keys that some of them may see], what is added to their scores: 0, or minus
            infinity. Row r is query `start + r` and column c is key `start - width + c` of every block. None
            where all queries see all keys.
    """

    width: int
    mask: torch.Tensor | None

    @classmethod
    def of(
        cls,
        width: int,
        token_count: int,
        dtype: torch.dtype,
        device: torch.device,
        block_tokens: int = BLOCK_TOKENS,
    ) -> Window:
        """The window in a song of `token_count` tokens, for queries of `dtype` on `device`."""
        if token_count <= width + 1:
            return cls(width, None)
        if token_count <= 2 * width + block_tokens:
            block_tokens = token_count  # more blocks would read nearly all keys each
        rows = torch.arange(min(block_tokens, token_count), device=device)[:, None]
        columns = torch.arange(rows.shape[0] + 2 * width, device=device)[None, :]
        is_outside = (columns < rows) | (columns > rows + 2 * width)
        mask = torch.zeros(is_outside.shape, dtype=dtype, device=device)
        return cls(width, mask.masked_fill_(is_outside, -math.inf))


def attend_within(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: Window | None = None,
    *,
    groups_heads: bool = False,
) -> torch.Tensor:
    """Attention in which token i sees the tokens j with abs(i - j) <= the window's width.

    By `native_attention` where that is compiled, else by what torch has.

    Args:
        query: [items, tokens, heads, head_dim].
        key: [items, keys, key heads, head_dim], in a window as many keys as tokens; the heads are a multiple
            of the key heads.
        value: as `key`.
        scale: what the scores are multiplied by.
        window: for so many tokens; None: every token sees all keys.
        groups_heads: see `attend`.
    """
    if native_attention.is_ready(query):
        width = None if window is None else window.width
        return native_attention.attend(query, key, value, scale, width)
    if window is None:
        return attend(query, key, value, scale, groups_heads=groups_heads)
    token_count, mask = query.shape[1], window.mask
    if mask is None or len(mask) == token_count:
        whole = None if mask is None else mask[:, window.width : window.width + token_count]
        return attend(query, key, value, scale, whole, groups_heads=groups_heads)
    attended = torch.empty_like(query)
    for start in range(0, token_count, len(mask)):
        stop = min(start + len(mask), token_count)
        left = start - window.width
        first, last = max(0, left), min(token_count, stop + window.width)
        attended[:, start:stop] = attend(
            query[:, start:stop],
            key[:, first:last],
            value[:, first:last],
            scale,
            mask[: stop - start, first - left : last - left],
            groups_heads=groups_heads,
        )
    return attended
