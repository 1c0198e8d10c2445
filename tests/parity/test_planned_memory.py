"""Planned against allocated memory, as torch's profiler sees it, for the engines with real tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from acestage.adapters import AdapterFolder
from acestage.checkpoints import open_checkpoint
from acestage.protos.dit.v1.dit_pb2 import Adapter
from services.dit import memory as dit_memory
from services.dit.adapter_requests import resolve_adapters
from services.runtime.devices import resolve_dtype
from services.runtime.memory_probe import fake_tensors, placed_copy
from tests.allocations import peak_allocated_bytes
from tests.published_workers import (
    architecture,
    decode,
    denoise,
    encode,
    encode_audio,
    with_random_weights,
    without_weights,
)

THREADS = 2

# Elsewhere bfloat16 has other kernels, which nobody would choose.
COMPUTES_IN_BF16 = resolve_dtype("auto", "cpu", "bfloat16") == "bfloat16"
DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16, marks=pytest.mark.skipif(not COMPUTES_IN_BF16, reason="no bfloat16 in hardware")
    ),
]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def assert_close(planned_bytes: int, allocated_bytes: int) -> None:
    """No more than 2 % too little, no more than 10 % too much."""
    assert 0.98 <= planned_bytes / allocated_bytes <= 1.10, (planned_bytes, allocated_bytes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pass_of_the_published_transformer(dtype: torch.dtype) -> None:
    checkpoint = architecture("turbo", layer_count=2)
    memory = without_weights("dit", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("dit", checkpoint, dtype)
    for frames in (250, 2250):
        allocated = peak_allocated_bytes(denoise(worker, frames, dtype))
        assert_close(memory.activation_bytes("single", frames), allocated)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_guided_pass_of_the_published_transformer(dtype: torch.dtype) -> None:
    checkpoint = architecture("base", layer_count=2)
    memory = without_weights("dit", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("dit", checkpoint, dtype)
    # Half precision where the curve has a bend behind it, full precision with the halves taking turns.
    mode, frames = ("single", 250) if dtype == torch.float32 else ("guided", 1500)
    allocated = peak_allocated_bytes(denoise(worker, frames, dtype, split=mode == "single"))
    assert_close(memory.activation_bytes(mode, frames), allocated)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_batch_with_int8_weights(dtype: torch.dtype) -> None:
    checkpoint = architecture("turbo", layer_count=2)
    memory = without_weights("dit", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("dit", checkpoint, dtype, "int8")
    allocated = peak_allocated_bytes(denoise(worker, 750, dtype, items=8))
    planned = memory.total_bytes("single", 750, "int8", 8) - memory.resting_bytes("int8")
    assert_close(planned, allocated)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_pass_with_an_adapter(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = architecture("turbo", layer_count=2)
    memory = without_weights("dit", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("dit", checkpoint, dtype)
    stored = {}
    for name, layer in worker.engine.transformer.layers.named_modules():
        if isinstance(layer, torch.nn.Linear):
            module = f"transformer.layers.{name.replace('.layer.', '.')}"
            stored[f"{module}.lora_A.weight"] = torch.zeros(64, layer.in_features)
            stored[f"{module}.lora_B.weight"] = torch.zeros(layer.out_features, 64)
    save_file(stored, tmp_path / "x.safetensors")
    (use,) = resolve_adapters(AdapterFolder(tmp_path), [Adapter(name="x")])
    planned = memory.activation_bytes("single", 750) + use.parameter_count * dtype.itemsize
    assert_close(planned, peak_allocated_bytes(denoise(worker, 750, dtype, adapters=(use,))))


def test_two_layers_have_the_peak_of_all() -> None:
    peaks = []
    for layer_count in (2, 24):
        worker = without_weights("dit", architecture("turbo", layer_count))
        with fake_tensors():
            engine = placed_copy(worker, torch.bfloat16, "none").engine
            assert len(engine.transformer.layers) == layer_count
            peaks.append(dit_memory._peak_bytes(engine, "single", 4500, None))
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tile_of_the_published_vae(dtype: torch.dtype) -> None:
    checkpoint = architecture("turbo")
    memory = without_weights("vae", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("vae", checkpoint, dtype)
    for tile in (16, 64):
        allocated = peak_allocated_bytes(decode(worker, tile))
        assert_close(memory.activation_bytes("tile", tile + 2 * memory.halo_frame_count), allocated)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tile_that_the_published_vae_encodes(dtype: torch.dtype) -> None:
    checkpoint = architecture("turbo")
    memory = without_weights("vae", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("vae", checkpoint, dtype)
    for tile in (8, 48):
        allocated = peak_allocated_bytes(encode_audio(worker, tile))
        planned = memory.activation_bytes("encode_tile", tile + 2 * memory.encoder_halo_frame_count)
        assert_close(planned, allocated)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_longest_prompt_of_the_published_encoders(dtype: torch.dtype) -> None:
    checkpoint = architecture("turbo", layer_count=2)
    memory = without_weights("text_encoder", checkpoint).memory(dtype, THREADS)
    worker = with_random_weights("text_encoder", checkpoint, dtype)
    assert_close(memory.activation_bytes("encode", 4500), peak_allocated_bytes(encode(worker, 4500)))
    # In float32 the codec is slow: no more codes than go through it at once.
    frames = 250 if dtype == torch.float32 else 1500
    allocated = peak_allocated_bytes(encode(worker, frames, with_codes=True))
    assert_close(memory.activation_bytes("codes", frames), allocated)


def test_the_embedded_model() -> None:
    checkpoint = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
    dtype = torch.float32
    for stage in ("dit", "vae", "text_encoder"):
        memory = without_weights(stage, checkpoint).memory(dtype, THREADS)
        worker = with_random_weights(stage, checkpoint, dtype)
        assert memory.weights_bytes["none"] == sum(
            tensor.numel() * tensor.element_size()
            for module in worker.modules()
            for tensor in (*module.parameters(), *module.buffers())
        )
        if stage == "dit":
            allocated = peak_allocated_bytes(denoise(worker, 750, dtype))
            assert_close(memory.activation_bytes("single", 750), allocated)
        elif stage == "vae":
            allocated = peak_allocated_bytes(decode(worker, 128))
            assert_close(memory.activation_bytes("tile", 128 + 2 * memory.halo_frame_count), allocated)
            allocated = peak_allocated_bytes(encode_audio(worker, 128))
            encoded = 128 + 2 * memory.encoder_halo_frame_count
            assert_close(memory.activation_bytes("encode_tile", encoded), allocated)
        else:
            allocated = peak_allocated_bytes(encode(worker, 750))
            assert_close(memory.activation_bytes("encode", 750), allocated)
            allocated = peak_allocated_bytes(encode(worker, 1500, with_codes=True))
            assert_close(memory.activation_bytes("codes", 1500), allocated)
