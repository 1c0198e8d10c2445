"""Modules that are on the device for one job."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component, load_decoder
from services.runtime.weights.borrowed import borrowed, borrowed_by_layers
from services.runtime.weights.placement import place

CPU = torch.device("cpu")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
LOADERS = [load_decoder, partial(load_component, name="audio_tokenizer")]


def contents(module: torch.nn.Module) -> dict[str, tuple[int, torch.dtype]]:
    return {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_copy_is_placed_and_the_module_left_as_it_was(
    load: Callable[..., Any], dtype: torch.dtype
) -> None:
    module, placed = load(TINY), load(TINY)
    place(placed, CPU, dtype)
    before = contents(module)
    with borrowed(module, CPU, dtype) as copied:
        assert copied.state_dict().keys() == placed.state_dict().keys()
        for name, tensor in copied.state_dict().items():
            assert torch.equal(tensor, placed.state_dict()[name])
            assert tensor.dtype == placed.state_dict()[name].dtype
    assert contents(module) == before


@torch.no_grad()
def test_it_can_be_borrowed_again_even_after_a_pass_of_the_module_itself() -> None:
    module = load_decoder(TINY)
    latents = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(1))
    expected = module(latents)
    for _ in range(2):
        with borrowed(module, CPU, torch.float32) as copied:
            assert torch.equal(copied(latents), expected)


def test_in_the_stored_type_only_folded_weights_take_memory() -> None:
    module = load_component(TINY, "audio_tokenizer")
    with borrowed(module, CPU, torch.float32) as copied:
        assert contents(copied) == contents(module)
    decoder = load_decoder(TINY)
    with borrowed(decoder, CPU, torch.float32) as copied:
        before = contents(decoder)
        new = {name for name, held in contents(copied).items() if before.get(name) != held}
        assert new == {name.removesuffix("_g") for name in before if name.endswith("_g")}


def test_what_it_took_is_free_afterwards_however_the_job_ends() -> None:
    kept: list[torch.nn.Module] = []

    def fail() -> None:
        with borrowed(load_decoder(TINY), CPU, torch.bfloat16) as copied:
            kept.append(copied)
            storages.extend(weakref.ref(p.untyped_storage()) for p in copied.parameters())
            assert all(storage() for storage in storages)
            raise ValueError("the job failed")

    storages: list[weakref.ref[torch.UntypedStorage]] = []
    with pytest.raises(ValueError, match="the job failed"):
        fail()
    gc.collect()
    assert list(kept[0].parameters()) == []
    assert not any(storage() for storage in storages)


@torch.no_grad()
def test_layers_are_placed_for_their_own_pass_alone() -> None:
    module = load_component(TINY, "condition_encoder").timbre_encoder
    before, layer_count = contents(module), len(module.layers)
    arguments = torch.ones(1, 20, 8, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.long)
    with borrowed(module, CPU, torch.bfloat16) as whole:
        expected = whole(*arguments)[0]
    placed: list[list[bool]] = []

    def note(*_: object) -> None:
        placed.append([_dtypes(layer) == {torch.bfloat16} for layer in layers])

    with borrowed_by_layers(module, CPU, torch.bfloat16) as copied:
        layers = list(copied.get_submodule("layers").children())
        assert copied.get_parameter("norm.weight").dtype == torch.bfloat16
        for layer in layers:
            layer.register_forward_pre_hook(note)
        found = copied(*arguments)[0]
        assert not any(_dtypes(layer) for layer in layers)
    assert torch.equal(found, expected)
    assert layer_count > 1
    assert placed == [[index == other for other in range(layer_count)] for index in range(layer_count)]
    assert contents(module) == before


def _dtypes(module: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters()}
