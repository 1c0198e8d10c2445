"""Attention in C++ is the attention of torch, and sees what it should see."""

from __future__ import annotations

import copy
import functools
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from torch._subclasses.fake_tensor import FakeTensorMode

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import TRANSFORMER
from services.dit import native_attention
from services.dit.attention import Window, attend_within
from services.dit.native_attention import HEAD_DIM, KERNEL, is_ready
from services.dit.time_embeddings import embed_timesteps
from services.dit.transformer_pass import TransformerPass
from services.runtime.kernels.compiling import compile_kernel
from services.runtime.kernels.store import kernel_path, use_compiled
from services.runtime.processes.cpu_features import has_feature
from tests.dense_attention import dense_attention
from tests.relative_error import relative_error

CPU = torch.device("cpu")
BFLOAT16 = torch.bfloat16
SCALE = HEAD_DIM**-0.5
TOLERANCE = 4e-3
"""Of the L2 norm of a result: bfloat16 rounds to 2e-3, and the weights of the values are rounded, too."""

pytestmark = pytest.mark.skipif(
    not has_feature("avx512_bf16") or shutil.which("g++") is None, reason="needs AVX-512 BF16 and g++"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cache that has it compiled."""
    cache_dir = tmp_path_factory.mktemp("cache")
    path = kernel_path(KERNEL, cache_dir, CPU, BFLOAT16)
    compile_kernel(KERNEL, path, CPU, BFLOAT16, cache_dir)
    assert list(path.parent.iterdir()) == [path]
    return cache_dir


@pytest.fixture(autouse=True)
def compiled(library: Path) -> Iterator[None]:
    assert use_compiled((KERNEL,), library, CPU, BFLOAT16)
    yield
    KERNEL.forget_compiled()


def states(*shape: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, HEAD_DIM, generator=generator)).to(BFLOAT16)


def expected(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, width: int | None) -> torch.Tensor:
    return dense_attention(query.float(), key.float(), value.float(), width)


@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (6, 1)])
@pytest.mark.parametrize(
    ("items", "tokens", "width"),
    [(1, 1, None), (2, 5, None), (1, 127, None), (1, 128, None), (2, 129, None), (1, 400, None),
     (1, 1, 3), (1, 40, 0), (2, 40, 1), (1, 129, 128), (1, 130, 128), (2, 400, 128), (1, 900, 128),
     (1, 300, 1000)],
)  # fmt: skip
def test_it_gives_what_torch_gives(
    items: int, tokens: int, width: int | None, heads: tuple[int, int]
) -> None:
    query, key = states(items, tokens, heads[0], seed=1), states(items, tokens, heads[1], seed=2)
    value = states(items, tokens, heads[1], seed=3)
    found = native_attention.attend(query, key, value, SCALE, width)
    error = relative_error(found, expected(query, key, value, width))
    assert error <= TOLERANCE
    if width is not None and width + 1 < tokens:
        assert relative_error(found, expected(query, key, value, width + 1)) > 2 * error


@pytest.mark.parametrize(("tokens", "keys"), [(1, 256), (300, 1), (300, 45), (45, 300)])
def test_keys_may_be_more_or_fewer_than_queries(tokens: int, keys: int) -> None:
    query, key, value = states(2, tokens, 4, seed=1), states(2, keys, 2, seed=2), states(2, keys, 2, seed=3)
    found = native_attention.attend(query, key, value, SCALE, None)
    assert relative_error(found, expected(query, key, value, None)) <= TOLERANCE


@pytest.mark.parametrize("spread", [1e-3, 30.0])
def test_small_and_large_scores_keep_their_places(spread: float) -> None:
    """Of large ones a single key takes all: the maximum moves from block to block."""
    query, key = states(1, 500, 2, seed=1, spread=spread), states(1, 500, 2, seed=2, spread=spread)
    value = states(1, 500, 2, seed=3)
    found = native_attention.attend(query, key, value, SCALE, None)
    assert relative_error(found, expected(query, key, value, None)) <= TOLERANCE


@pytest.mark.parametrize("width", [None, 128])
def test_the_number_of_threads_changes_no_bit(width: int | None) -> None:
    query, key, value = states(1, 777, 4, seed=1), states(1, 777, 2, seed=2), states(1, 777, 2, seed=3)
    before = torch.get_num_threads()
    found = []
    try:
        for thread_count in (1, 2, 7, 64):
            torch.set_num_threads(thread_count)
            found.append(native_attention.attend(query, key, value, SCALE, width))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_another_thread_gets_the_same() -> None:
    query, key, value = states(1, 200, 4, seed=1), states(1, 200, 2, seed=2), states(1, 200, 2, seed=3)
    attend = functools.partial(native_attention.attend, query, key, value, SCALE, 16)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(attend).result(), attend())


@pytest.mark.parametrize("place", ["query", "key", "value"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_finite_is_not_lost(place: str, number: float) -> None:
    given = {name: states(1, 400, 2, seed=seed) for seed, name in enumerate(("query", "key", "value"))}
    given[place][0, 300] = number
    found = native_attention.attend(**given, scale=SCALE, width=64)
    is_finite = found.isfinite().all(dim=-1).all(dim=-1)[0]
    away = (torch.arange(400) - 300).abs()
    assert not is_finite[away <= (0 if place == "query" else 64)].any()
    assert is_finite[away > 64 + (128 if place == "value" else 0)].all()  # 0 x nan, within a block of keys


def test_without_memory_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KERNEL, "compiled", lambda *arguments: False)
    with pytest.raises(MemoryError, match="attention"):
        native_attention.attend(*(states(1, 2, 2, seed=1) for _ in range(3)), SCALE, None)


@pytest.mark.parametrize(
    ("key", "value", "width"),
    [((1, 5, 2), (1, 4, 2), None), ((2, 5, 2), (2, 5, 2), None), ((1, 5, 3), (1, 5, 3), None),
     ((1, 4, 2), (1, 4, 2), 3)],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(
    key: tuple[int, ...], value: tuple[int, ...], width: int | None
) -> None:
    with pytest.raises(AssertionError):
        native_attention.attend(
            states(1, 5, 4, seed=1), states(*key, seed=2), states(*value, seed=3), SCALE, width
        )


@pytest.mark.parametrize("place", ["query", "key", "value"])
@pytest.mark.parametrize("other", [torch.float32, torch.float16, "meta"])
def test_numbers_of_another_kind_are_refused(place: str, other: torch.dtype | str) -> None:
    given = {name: states(1, 5, 2, seed=1) for name in ("query", "key", "value")}
    given[place] = given[place].to(other)
    with pytest.raises(AssertionError):
        native_attention.attend(**given, scale=SCALE, width=None)


def test_tensors_need_not_be_dense() -> None:
    query, key, value = states(3, 50, 4, seed=1), states(3, 50, 2, seed=2), states(3, 50, 2, seed=3)
    turned = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    found = native_attention.attend(*(state[:3] for state in turned), SCALE, None)
    dense = native_attention.attend(*(state[:3].contiguous() for state in turned), SCALE, None)
    assert torch.equal(found, dense)


@pytest.mark.parametrize("width", [None, 16])
def test_the_transformer_takes_it_where_it_is_compiled(width: int | None) -> None:
    query, key, value = states(1, 60, 4, seed=1), states(1, 60, 2, seed=2), states(1, 60, 2, seed=3)
    window = None if width is None else Window.of(width, 60, BFLOAT16, CPU)
    attend = functools.partial(attend_within, query, key, value, SCALE, window)
    assert torch.equal(attend(), native_attention.attend(query, key, value, SCALE, width))
    KERNEL.forget_compiled()
    assert not is_ready(query)
    assert relative_error(attend(), expected(query, key, value, width)) <= TOLERANCE


@torch.no_grad()
def test_a_pass_of_the_transformer_is_as_near_to_that_of_diffusers_as_with_torch() -> None:
    torch.manual_seed(1)
    tiny = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
    config = {**tiny.component(TRANSFORMER).config.values, "head_dim": HEAD_DIM}
    reference: Any = AceStepTransformer1DModel.from_config(config).eval()
    latents, context, prompt = torch.randn(2, 301, 8), torch.randn(2, 301, 16), torch.randn(2, 45, 64)
    times = torch.full((2,), 0.5)
    expected_velocity = reference(latents, times, times, prompt, context, return_dict=False)[0]
    transformer = copy.deepcopy(reference).to(BFLOAT16)
    time = embed_timesteps(transformer, [0.5])[0.5]
    passes = TransformerPass(transformer)
    passes.groups_heads = True
    latents, context, prompt = (states.to(BFLOAT16) for states in (latents, context, prompt))
    prepared = passes.prepare(prompt, context, positions=passes.positions(context), keeps_prompt=True)
    error = relative_error(passes.velocity(latents, time, prepared), expected_velocity)
    KERNEL.forget_compiled()
    error_of_torch = relative_error(passes.velocity(latents, time, prepared), expected_velocity)
    assert 0 < error <= 1.2 * error_of_torch
    assert error != error_of_torch


def test_it_is_for_heads_of_its_size_in_its_type_and_for_numbers_that_are_there() -> None:
    query = states(1, 5, 2, seed=1)
    assert is_ready(query)
    assert not is_ready(query[..., :64])
    assert not is_ready(query.float())
    assert not is_ready(query.to("meta"))
    with FakeTensorMode():
        assert not is_ready(torch.empty(1, 5, 2, HEAD_DIM, dtype=BFLOAT16))
