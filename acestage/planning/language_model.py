"""What a 5 Hz language model needs on its device, from its settings alone."""

from __future__ import annotations

from dataclasses import dataclass

from acestage.checkpoints.configs import ConfigFile
from acestage.planning.overheads import CUDA_CONTEXT_BYTES, RESERVE_BYTES

LONGEST_GENERATION_TOKENS = 256 + 2_048 + 512 + 5 * 600
"""The prompt's caption and lyrics, metadata, and the audio codes of ten minutes at 5 a second."""

_ITEM_BYTES = 2  # bfloat16
_LOGIT_BYTES = 4  # sampling is done in float32
_SEQUENCES = 2  # guidance runs a second, unconditional one


@dataclass(frozen=True, slots=True)
class LanguageModelMemory:
    """Bytes that a language model needs, in bfloat16, for the longest generation.

    Attributes:
        name: "0.6B", "1.7B" or "4B".
        weights_bytes: of all parameters; the head is the embedding.
        cache_bytes: keys and values of every layer for every token of both sequences:
            2 * layers * key_value_heads * head_dim * tokens * sequences * 2 bytes.
        activation_bytes: while the prompt is read: six tensors of the hidden width and three of the
            feed-forward width for each token, and the logits of the last one.
    """

    name: str
    weights_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """With the context of the process and the reserve."""
        parts = self.weights_bytes, self.cache_bytes, self.activation_bytes
        return sum(parts) + CUDA_CONTEXT_BYTES + RESERVE_BYTES

    @classmethod
    def of(cls, name: str, config: ConfigFile) -> LanguageModelMemory:
        """From the settings of a Qwen3 language model.

        Raises:
            CheckpointError: one is missing.
        """
        width, inner = config.count("hidden_size"), config.count("intermediate_size")
        layers, head_width = config.count("num_hidden_layers"), config.count("head_dim")
        heads, key_heads = config.count("num_attention_heads"), config.count("num_key_value_heads")
        vocabulary = config.count("vocab_size")
        attention = 2 * width * (heads + key_heads) * head_width + 2 * head_width
        layer = attention + 3 * width * inner + 2 * width
        tokens = LONGEST_GENERATION_TOKENS * _SEQUENCES
        return cls(
            name=name,
            weights_bytes=(vocabulary * width + layers * layer + width) * _ITEM_BYTES,
            cache_bytes=2 * layers * key_heads * head_width * tokens * _ITEM_BYTES,
            activation_bytes=tokens * (6 * width + 3 * inner) * _ITEM_BYTES
            + _SEQUENCES * vocabulary * _LOGIT_BYTES,
        )
