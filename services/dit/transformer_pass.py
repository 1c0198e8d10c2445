"""A pass of the diffusion transformer, in tokens that lie one behind the other in memory.

`AceStepTransformer1DModel.forward` of diffusers leaves tokens in the order of its first convolution, channels
first, so that every matrix product on a CPU copies its input; it computes in every step what depends on the
prompt alone; and for its windowed layers it builds a mask of tokens x tokens. This computes the same with the
same modules, without these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed

from services.dit.attention import Window, attend_within
from services.dit.kernels import (
    add_norm_modulate,
    add_scaled_norm_modulate,
    gated_silu,
    norm_modulate,
    norm_rotate,
    scaled_norm,
    scaled_norm_rotate,
)
from services.dit.time_embeddings import TimeEmbedding
from services.dit.tokens import CHUNK_TOKENS
from services.runtime.kernels.int8_activations import gated_silu_in_8_bits
from services.runtime.weights.integer_products import Quantized, products_of

_KeyValue = tuple[torch.Tensor, torch.Tensor]

Product = tuple[torch.Tensor, torch.Tensor | None]
"""[rows, outputs] of a layer, and what each row is still to be multiplied by, [rows, 1] in float32: what
takes it does so beside its own work. None for nothing."""


class _Input:
    """What several layers take, [rows, inputs]; in 8 bits once for all whose products are of integers.

    Layers with adapters take it as it is.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    @functools.cached_property
    def quantized(self) -> Quantized:
        return Quantized.of(self.rows)


@dataclass(frozen=True, slots=True)
class Positions:
    """What depends on the length of a song alone.

    Attributes:
        rotary: cosine and sine of the positions, [tokens, head_dim / 2].
        windows: of the layers that see no further, by their widths.
    """

    rotary: tuple[torch.Tensor, torch.Tensor]
    windows: dict[int, Window]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What all passes of a job for one prompt have in common.

    Attributes:
        context_latents: [items, frames, 2 * channels].
        encoder_hidden_states: [items, tokens of the prompt, condition width].
        keys_values: of each layer, from these; [items, tokens of the prompt, heads, head_dim]. None where
            every pass is to compute them again.
        positions: of the song.
    """

    context_latents: torch.Tensor
    encoder_hidden_states: torch.Tensor
    keys_values: tuple[_KeyValue, ...] | None
    positions: Positions

    def first(self) -> Prepared:
        """The first item alone."""
        kept = self.keys_values
        return Prepared(
            self.context_latents[:1],
            self.encoder_hidden_states[:1],
            None if kept is None else tuple((key[:1], value[:1]) for key, value in kept),
            self.positions,
        )


class TransformerPass:
    """Computes velocities with the modules of `transformer`.

    Attributes:
        groups_heads: whether attention is told that several heads share a key, instead of repeating keys.
    """

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        self._transformer: Any = transformer
        self.groups_heads = False

    def positions(self, context_latents: torch.Tensor) -> Positions:
        """Those of a song with these [items, frames, 2 * channels]."""
        model = self._transformer
        token_count = -(-context_latents.shape[1] // model.patch_size)
        positions = torch.arange(token_count, device=context_latents.device, dtype=torch.float32)
        cosine, sine = get_1d_rotary_pos_embed(
            model.head_dim, positions, theta=model.rope_theta, use_real=True, repeat_interleave_real=False
        )
        half = model.head_dim // 2  # both halves of a head turn alike
        dtype, device = context_latents.dtype, context_latents.device
        widths = {layer.self_attn.sliding_window for layer in model.layers} - {None}
        return Positions(
            (cosine[:, :half].to(dtype).contiguous(), sine[:, :half].to(dtype).contiguous()),
            {width: Window.of(width, token_count, dtype, device) for width in widths},
        )

    def prepare(
        self,
        encoder_hidden_states: torch.Tensor,
        context_latents: torch.Tensor,
        *,
        positions: Positions,
        keeps_prompt: bool,
    ) -> Prepared:
        """What does not depend on the step.

        Args:
            encoder_hidden_states: [items, tokens of the prompt, condition width].
            context_latents: [items, frames, 2 * channels].
            positions: of the song.
            keeps_prompt: whether to keep its keys and values, `prompt_token_bytes` for each token.
        """
        keys_values = None
        if keeps_prompt:
            states = self._transformer.condition_embedder(encoder_hidden_states)
            layers = self._transformer.layers
            keys_values = tuple(self._key_value(layer.cross_attn, states) for layer in layers)
        return Prepared(context_latents, encoder_hidden_states, keys_values, positions)

    def prompt_token_bytes(self, dtype: torch.dtype) -> int:
        """What the keys and values of a token of a prompt take, of all layers together."""
        layers = self._transformer.layers
        width: int = layers[0].cross_attn.kv_heads * layers[0].cross_attn.head_dim
        return 2 * len(layers) * width * dtype.itemsize

    def velocity(self, latents: torch.Tensor, time: TimeEmbedding, prepared: Prepared) -> torch.Tensor:
        """The velocity of `latents` [items, frames, channels] at `time`, of the same shape."""
        model = self._transformer
        rows = self._patches(latents, prepared.context_latents)
        item_count, token_count, width = rows.shape
        rows = rows.reshape(-1, width)
        rotary = tuple(turns.repeat(item_count, 1) for turns in prepared.positions.rotary)
        ones, zeros = rows.new_ones(width), rows.new_zeros(width)
        kept = prepared.keys_values
        states: Any = None
        if not kept:
            states = model.condition_embedder(prepared.encoder_hidden_states)

        first, *others = model.layers
        shift, scale, *table = (first.scale_shift_table + time.modulation)[0].unbind()
        normed = norm_modulate(rows, first.self_attn_norm.weight, scale, shift)
        for index, (layer, after) in enumerate(zip(model.layers, [*others, None], strict=True)):
            gate, feed_shift, feed_scale, feed_gate = table
            attention = layer.self_attn
            window = prepared.positions.windows.get(attention.sliding_window)
            update = self._self_attention(attention, normed, item_count, rotary, window)
            norm = layer.cross_attn_norm.weight
            rows, normed = add_update(rows, update, gate, norm, zeros, zeros)
            key_value = kept[index] if kept else self._key_value(layer.cross_attn, states)
            update = self._cross_attention(layer.cross_attn, normed, item_count, *key_value)
            del key_value
            norm = layer.mlp_norm.weight
            rows, normed = add_update(rows, update, ones, norm, feed_scale, feed_shift)
            update = feed_forward(layer.mlp, normed)
            if after is None:
                norm = model.norm_out.weight
                shift, scale = (model.scale_shift_table[0] + time.embedding).unbind()
            else:
                norm = after.self_attn_norm.weight
                shift, scale, *table = (after.scale_shift_table + time.modulation)[0].unbind()
            rows, normed = add_update(rows, update, feed_gate, norm, scale, shift)
        tokens = normed.view(item_count, token_count, width)
        velocity: torch.Tensor = model.proj_out_conv(tokens.transpose(1, 2)).transpose(1, 2)
        return velocity[:, : latents.shape[1]]

    def _patches(self, latents: torch.Tensor, context_latents: torch.Tensor) -> torch.Tensor:
        model = self._transformer
        frames = torch.cat([context_latents, latents], dim=-1)
        missing = -frames.shape[1] % model.patch_size
        frames = torch.nn.functional.pad(frames, (0, 0, 0, missing))
        patches: torch.Tensor = model.proj_in_conv(frames.transpose(1, 2)).transpose(1, 2)
        return patches.contiguous()

    def _self_attention(
        self,
        attention: Any,
        rows: torch.Tensor,
        item_count: int,
        rotary: tuple[torch.Tensor, ...],
        window: Window | None,
    ) -> Product:
        given = _Input(rows)
        query = self._turned(attention.to_q, attention.norm_q, given, item_count, rotary)
        key = self._turned(attention.to_k, attention.norm_k, given, item_count, rotary)
        value = _scaled_product(attention.to_v, given)
        del given
        value = value.view(item_count, -1, attention.kv_heads, attention.head_dim)
        attended = attend_within(query, key, value, attention.scaling, window, groups_heads=self.groups_heads)
        del query, key, value
        return _product(attention.to_out[0], _Input(attended.reshape(len(rows), -1)))

    def _cross_attention(
        self, attention: Any, rows: torch.Tensor, item_count: int, key: torch.Tensor, value: torch.Tensor
    ) -> Product:
        query = _normed_heads(attention.norm_q, *_product(attention.to_q, _Input(rows)), attention.head_dim)
        query = query.view(item_count, -1, attention.heads, attention.head_dim)
        attended = attend_within(query, key, value, attention.scaling, groups_heads=self.groups_heads)
        del query
        return _product(attention.to_out[0], _Input(attended.reshape(len(rows), -1)))

    def _key_value(self, attention: Any, states: torch.Tensor) -> _KeyValue:
        item_count, token_count, width = states.shape
        given = _Input(states.reshape(-1, width))
        shape = (item_count, token_count, attention.kv_heads, attention.head_dim)
        key = _normed_heads(attention.norm_k, *_product(attention.to_k, given), attention.head_dim)
        return key.view(shape), _scaled_product(attention.to_v, given).view(shape)

    def _turned(
        self,
        projection: torch.nn.Module,
        norm: Any,
        given: _Input,
        item_count: int,
        rotary: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """[rows, width] to [items, tokens, heads, head_dim]."""
        half = len(norm.weight) // 2
        row_count = len(given.rows)
        heads, scale = _product(projection, given)
        heads, weight = heads.view(row_count, -1, 2, half), norm.weight.view(2, half)
        turned: torch.Tensor
        if scale is None:
            turned = norm_rotate(heads, weight, *rotary)
        else:
            turned = scaled_norm_rotate(heads, scale, weight, *rotary)
        return turned.view(item_count, row_count // item_count, -1, 2 * half)


def add_update(
    rows: torch.Tensor, update: Product, *parameters: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_norm_modulate` of a branch's last product."""
    values, scale = update
    result: tuple[torch.Tensor, torch.Tensor]
    if scale is None:
        result = add_norm_modulate(rows, values, *parameters)
    else:
        result = add_scaled_norm_modulate(rows, values, scale, *parameters)
    return result


def _normed_heads(norm: Any, rows: torch.Tensor, scale: torch.Tensor | None, head_dim: int) -> torch.Tensor:
    """A product [rows, heads * head_dim], with the norm over each head."""
    normed: torch.Tensor
    if scale is None:
        nothing = rows.new_zeros(head_dim)
        normed = norm_modulate(rows.view(-1, head_dim), norm.weight, nothing, nothing)
    else:
        normed = scaled_norm(rows.view(len(rows), -1, head_dim), scale, norm.weight)
    return normed


def feed_forward(mlp: Any, rows: torch.Tensor) -> Product:
    """What `AceStepMLP` of diffusers makes of [tokens, width].

    Over some tokens at a time: what is between its products is three times as wide as a token.
    """
    integers = products_of(mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if integers is None:

        def feed(part: torch.Tensor) -> torch.Tensor:
            gated = gated_silu(_linear(mlp.gate_proj, part), _linear(mlp.up_proj, part))
            return _linear(mlp.down_proj, gated)

        return _by_chunks(feed, rows, rows.shape[1]), None
    gate, up, down = integers

    def gated(part: torch.Tensor) -> Quantized:
        given = Quantized.of(part)
        return Quantized.taking(*gated_silu_in_8_bits(gate.unscaled(given), up.unscaled(given), given.scale))

    if len(rows) > CHUNK_TOKENS:
        return _by_chunks(lambda part: down.of(gated(part)), rows, rows.shape[1]), None
    return down.product(gated(rows))


def _product(layer: Any, given: _Input) -> Product:
    """As `_linear`, with what a product of integers leaves to be done."""
    integers = products_of(layer)
    if integers is None:
        return _linear(layer, given.rows), None
    (integer,) = integers
    return integer.product(given.quantized)


def _scaled_product(layer: Any, given: _Input) -> torch.Tensor:
    """As `_linear`."""
    integers = products_of(layer)
    return _linear(layer, given.rows) if integers is None else integers[0].of(given.quantized)


def _linear(layer: Any, rows: torch.Tensor) -> torch.Tensor:
    """[rows, inputs] to [rows, outputs].

    With an adapter on it, a layer takes temporaries as large as its result: those of a chunk alone.
    """
    if isinstance(layer, torch.nn.Linear):
        result: torch.Tensor = layer(rows)
        return result
    return _by_chunks(layer, rows, layer.out_features)


def _by_chunks(
    compute: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, output_width: int
) -> torch.Tensor:
    """What `compute` gives for [rows, width], which is [rows, `output_width`], some rows at a time."""
    if len(rows) <= CHUNK_TOKENS:
        return compute(rows)
    output = rows.new_empty(len(rows), output_width)
    for start in range(0, len(rows), CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        output[part] = compute(rows[part])
    return output
