"""Attention in blocks is the dense attention with a band mask, and takes far less memory."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component
from services.dit import transformer_pass
from services.dit.attention import Window, attend_within
from services.dit.engine import DitEngine
from services.dit.time_embeddings import embed_timesteps
from services.runtime.kernels import kernel
from services.runtime.weights import integer_products
from services.runtime.weights.integer_products import is_supported
from tests.dense_attention import dense_attention

HEAD_DIM = 8


def states(items: int, tokens: int, heads: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(
        items, tokens, heads, HEAD_DIM, dtype=dtype, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(
    ("tokens", "window", "block"),
    [(1, 3, 4), (4, 3, 4), (5, 3, 4), (31, 3, 4), (32, 3, 4), (33, 3, 4), (33, 3, 100), (40, 30, 4),
     (97, 16, 1), (97, 16, 16), (97, 1, 7), (97, 0, 7), (300, 128, 256)],
)  # fmt: skip
def test_blocks_give_what_the_dense_mask_gives(
    tokens: int,
    window: int,
    block: int,
    heads: tuple[int, int],
    items: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    query = states(items, tokens, heads[0], dtype, 1)
    key, value = states(items, tokens, heads[1], dtype, 2), states(items, tokens, heads[1], dtype, 3)
    within = Window.of(window, tokens, dtype, query.device, block)
    ours = attend_within(query, key, value, HEAD_DIM**-0.5, within)
    assert (ours - dense_attention(query, key, value, window)).abs().max() <= tolerance
    if window + 1 < tokens:
        assert (ours - dense_attention(query, key, value, window + 1)).abs().max() > 1e-4


@functools.cache
def transformer() -> AceStepTransformer1DModel:
    """As diffusers has it; its window is 16 tokens, or 32 frames."""
    return load_component(open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints")), "transformer")


def inputs(items: int, frames: int, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    return {
        "hidden_states": noise(items, frames, 8),
        "timestep": torch.full((items,), 0.7, dtype=dtype),
        "timestep_r": torch.full((items,), 0.7, dtype=dtype),
        "encoder_hidden_states": noise(items, 45, 64),
        "context_latents": noise(items, frames, 16),
        "return_dict": False,
    }


def velocity(engine: DitEngine, arguments: dict[str, Any], keeps_prompt: bool = False) -> torch.Tensor:
    passes, context = engine.transformer_pass, arguments["context_latents"]
    prepared = passes.prepare(
        arguments["encoder_hidden_states"],
        context,
        positions=passes.positions(context),
        keeps_prompt=keeps_prompt,
    )
    t = float(arguments["timestep"][0])
    times = embed_timesteps(engine.transformer, [t])
    return passes.velocity(arguments["hidden_states"], times[t], prepared)


@pytest.mark.parametrize("keeps_prompt", [True, False])
@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize("frames", [1, 20, 33, 251, 1001])
@torch.no_grad()
def test_the_transformer_gives_what_that_of_diffusers_gives(
    items: int, frames: int, keeps_prompt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer_pass, "CHUNK_TOKENS", 100)
    monkeypatch.setattr(kernel, "_CHUNK_NUMBERS", 1000)
    reference = copy.deepcopy(transformer()).double()
    engine = DitEngine(copy.deepcopy(reference))
    engine.transformer_pass.groups_heads = keeps_prompt
    arguments = inputs(items, frames, torch.float64)
    expected = reference(**arguments)[0]
    assert expected.abs().max() > 0.1
    # Not 1e-12: norms and rotary embeddings pass through float32 on either side.
    assert (velocity(engine, arguments, keeps_prompt) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.skipif(
    not is_supported(torch.device("cpu"), torch.bfloat16), reason="this CPU does not multiply integers"
)
@torch.no_grad()
def test_layers_that_take_the_same_input_quantize_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DitEngine(copy.deepcopy(transformer()))
    engine.place(torch.device("cpu"), torch.bfloat16, "int8")
    layers = list(engine.transformer.layers)
    row_counts = []

    def counted(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        row_counts.append(len(rows))
        return quantize_rows(rows)

    quantize_rows = integer_products.quantize_rows
    monkeypatch.setattr(integer_products, "quantize_rows", counted)
    velocity(engine, inputs(1, 40, torch.bfloat16), keeps_prompt=True)
    # The prompt: keys and values. The tokens: both attentions, what comes out of them, the feed-forward.
    assert row_counts.count(45) == len(layers)
    assert row_counts.count(20) == 5 * len(layers)


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.element_count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [
            t.untyped_storage().nbytes() // t.itemsize
            for t in tree_leaves(result)
            if isinstance(t, torch.Tensor)
        ]
        self.element_count = max(self.element_count, *sizes, 0)
        return result


@torch.no_grad()
def test_no_tensor_grows_with_the_square_of_the_length() -> None:
    frames = 6000
    square = (frames // 2) ** 2
    arguments = inputs(1, frames, torch.float32)
    with LargestTensor() as dense_run:
        transformer()(**arguments)
    assert dense_run.element_count >= square
    with LargestTensor() as run:
        velocity(DitEngine(copy.deepcopy(transformer())), arguments)
    assert run.element_count < square / 10
