"""Which kernels a warmup compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestage.settings import load_settings
from services.dit import native_attention
from services.dit.kernels import AFTER_INTEGERS
from services.dit.kernels import KERNELS as DIT_KERNELS
from services.runtime.devices import devices
from services.runtime.kernels.int8_activations import KERNELS as INTEGER_KERNELS
from services.runtime.kernels.store import kernel_path
from services.runtime.weights import integer_products
from services.vae.kernels import KERNELS as VAE_KERNELS
from services.warmup import wanted
from services.warmup.wanted import find_wanted

CPU = torch.device("cpu")
NAMES = [kernel.name for kernel in (*DIT_KERNELS, *VAE_KERNELS)]


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("auto", ["float32"]), ("float16", ["float16", "float32"])],
)
def test_all_kernels_are_wanted_for_each_data_type_that_may_be_used(
    dtype: str, wanted: list[str], tmp_path: Path
) -> None:
    found = find_wanted(load_settings(dtype=dtype, cache_dir=tmp_path), CPU)
    assert sorted(map(str, found)) == sorted(f"{name} {one}" for name in NAMES for one in wanted)


@pytest.mark.parametrize("multiplies_integers", [True, False])
def test_kernels_for_integers_are_wanted_where_they_are_multiplied(
    multiplies_integers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_products, "has_feature", lambda *names: multiplies_integers)
    monkeypatch.setattr(native_attention, "has_feature", lambda *names: False)
    found = find_wanted(load_settings(dtype="bfloat16", cache_dir=tmp_path), CPU)
    for_integers = [kernel.name for kernel in (*AFTER_INTEGERS, *INTEGER_KERNELS)]
    names = NAMES + (for_integers if multiplies_integers else [])
    assert sorted(one.kernel.name for one in found) == sorted(names)


@pytest.mark.parametrize(
    ("features", "is_wanted"),
    [((), False), (("avx512_bf16",), True), (("avx512_bf16", "amx_bf16"), False), (("amx_bf16",), False)],
)
def test_attention_is_wanted_where_vectors_multiply_bfloat16_and_no_tiles_do(
    features: tuple[str, ...], is_wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_attention, "has_feature", lambda name: name in features)
    for dtype, expected in (("bfloat16", is_wanted), ("float32", False)):
        found = find_wanted(load_settings(dtype=dtype, cache_dir=tmp_path), CPU)
        assert (native_attention.KERNEL in [one.kernel for one in found]) is expected


def test_the_vaes_kernels_are_wanted_in_float32_alone_on_a_card_that_fails_at_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_compute_capability", lambda device: (7, 5))
    monkeypatch.setattr(devices, "_name", lambda device: "NVIDIA GeForce GTX 1650")
    monkeypatch.setattr(wanted, "missing", lambda kernels, *where: kernels)
    found = find_wanted(load_settings(cache_dir=tmp_path), torch.device("cuda:0"))
    names = {
        kernels: {one.dtype for one in found if one.kernel in kernels}
        for kernels in (DIT_KERNELS, VAE_KERNELS)
    }
    assert names == {DIT_KERNELS: {torch.float16, torch.float32}, VAE_KERNELS: {torch.float32}}


def test_several_checkpoints_of_one_data_type_want_each_kernel_once(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    both = f"{checkpoints['turbo/diffusers']},{checkpoints['base/original']}"
    settings = load_settings(checkpoint=both, variant=None, dtype="float32", cache_dir=tmp_path)
    assert len(find_wanted(settings, CPU)) == len(NAMES)


def test_what_is_there_is_not_wanted(tmp_path: Path) -> None:
    path = kernel_path(DIT_KERNELS[0], tmp_path, CPU, torch.float32)
    path.parent.mkdir(parents=True)
    path.touch()
    found = find_wanted(load_settings(dtype="float32", cache_dir=tmp_path), CPU)
    assert [one.kernel.name for one in found] == NAMES[1:]
