"""The transformer's tokens, without torch."""

from __future__ import annotations

PATCH_FRAMES = 2
"""Latent frames of a token."""

CHUNK_TOKENS = 1024
"""How many tokens, of all items together, a layer that treats every token by itself takes at once. At the
published width a feed-forward layer then takes 36 MiB in bfloat16, however long the song; over all tokens at
once it would be most of the peak."""
