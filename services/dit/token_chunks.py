"""Layers that treat every token by itself, run over some tokens at a time."""

from __future__ import annotations

import torch

from services.dit.tokens import CHUNK_TOKENS


class TokenChunks(torch.nn.Module):
    """Gives what `layer` gives for [items, tokens, width], up to rounding."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        item_count, token_count = states.shape[:2]
        step = max(1, CHUNK_TOKENS // item_count)
        if token_count <= step:
            output: torch.Tensor = self.layer(states)
            return output
        output = torch.empty_like(states)
        for start in range(0, token_count, step):
            output[:, start : start + step] = self.layer(states[:, start : start + step])
        return output
