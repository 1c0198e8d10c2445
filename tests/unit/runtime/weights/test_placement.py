"""Weights on their way to a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component, load_decoder
from acestage.planning import Quantization
from services.runtime.weights import placement
from services.runtime.weights.placement import folded_parts, moved, place, placed_bytes, weight_norms
from tests.storage import held_bytes

CPU = torch.device("cpu")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
COMPONENTS = ("transformer", "condition_encoder", "text_encoder")
LOADERS = [*(partial(load_component, name=name) for name in COMPONENTS), load_decoder]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_that_the_checkpoint_holds_takes_the_data_type(
    load: Callable[..., Any], dtype: torch.dtype
) -> None:
    module = load(TINY)
    place(module, CPU, dtype)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {dtype}


def test_rotary_frequencies_keep_their_precision() -> None:
    before = load_component(TINY, "text_encoder").rotary_emb.inv_freq
    module = load_component(TINY, "text_encoder")
    place(module, CPU, torch.bfloat16)
    assert torch.equal(module.rotary_emb.inv_freq, before)


def test_placing_in_the_stored_type_copies_nothing() -> None:
    module = load_component(TINY, "transformer")
    before = [parameter.data_ptr() for parameter in module.parameters()]
    place(module, CPU, torch.float32)
    assert [parameter.data_ptr() for parameter in module.parameters()] == before


class OnTheWay(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many numbers go from one device to another at once, and in which types they do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moves: list[tuple[int, set[torch.dtype]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        if len({tensor.device for tensor in tensors}) > 1:
            self.moves.append((tensors[0].numel(), {tensor.dtype for tensor in tensors}))
        return result


@pytest.mark.parametrize("shape", [(), (3,), (1500, 1001)])
def test_another_device_converts_what_it_gets_a_part_at_a_time(shape: tuple[int, ...]) -> None:
    stored = torch.zeros(shape, dtype=torch.bfloat16)
    with OnTheWay() as way:
        result = moved(stored, torch.device("meta"), torch.float16)
    assert (result.shape, result.dtype, result.device.type) == (stored.shape, torch.float16, "meta")
    assert sum(count for count, _ in way.moves) == stored.numel()
    assert all(count <= 1 << 20 and dtypes == {torch.bfloat16} for count, dtypes in way.moves)


@pytest.mark.parametrize("shape", [(), (0, 4), (1500, 1001)])
def test_what_a_device_converts_are_the_same_numbers(shape: tuple[int, ...]) -> None:
    stored = torch.randn(shape).bfloat16()
    for tensor in (stored, stored.T if stored.ndim == 2 else stored, stored[::2] if stored.ndim else stored):
        converted = placement._converted_there(tensor, torch.device("cpu"), torch.float16)
        torch.testing.assert_close(converted, tensor.to(torch.float16), rtol=0, atol=0)


def test_another_device_takes_weight_norm_of_what_it_converts() -> None:
    layer = load_decoder(TINY).conv1
    ((_, norm),) = weight_norms(layer)
    with OnTheWay() as way:
        list(folded_parts(layer, norm, torch.device("meta"), torch.float64, step=2))
    assert way.moves
    assert {dtype for _, dtypes in way.moves for dtype in dtypes} == {torch.float32}


@torch.no_grad()
def test_the_decoder_without_weight_norm_gives_the_same_bits() -> None:
    latents = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(2))
    mapped, placed = load_decoder(TINY), load_decoder(TINY)
    place(placed, CPU, torch.float32)
    assert torch.equal(placed(latents), mapped(latents))
    assert not [name for name in placed.state_dict() if name.endswith(("_g", "_v"))]


@torch.no_grad()
def test_weight_norm_is_computed_before_the_weight_is_rounded() -> None:
    mapped, placed = load_decoder(TINY), load_decoder(TINY)
    mapped(torch.zeros(1, 8, 1))  # computes the weights
    place(placed, CPU, torch.bfloat16)
    assert torch.equal(placed.conv1.weight, mapped.conv1.weight.bfloat16())


@torch.no_grad()
def test_no_pass_of_a_placed_decoder_makes_weights_anew() -> None:
    decoder = load_decoder(TINY)
    place(decoder, CPU, torch.bfloat16)
    before = {name: weight.data_ptr() for name, weight in decoder.named_parameters()}
    decoder(torch.zeros(1, 8, 1, dtype=torch.bfloat16))
    assert {name: weight.data_ptr() for name, weight in decoder.named_parameters()} == before


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantization", get_args(Quantization))
def test_the_bytes_on_the_device_are_those_foretold(
    load: Callable[..., Any], dtype: torch.dtype, quantization: Quantization
) -> None:
    module = load(TINY)
    foretold = placed_bytes([module], dtype, quantization)
    assert foretold == placed_bytes([module.to("meta")], dtype, quantization)
    module = load(TINY)
    place(module, CPU, dtype, quantization)
    assert held_bytes(module) == foretold
