"""Planned against allocated memory, as torch's profiler sees it, for the engines with real tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.planning import MIB, ActivationCurve, StageMemory
from acestage.tensors import WireTensor
from services.dit import memory as dit_memory
from services.dit.budget import DitBudget
from services.dit.engine import Conditioning
from services.dit.parameters import AdapterUse, DenoiseParameters
from services.dit.time_embeddings import EMBEDDERS
from services.runtime.devices.devices import resolve_dtype
from services.runtime.jobs.job_budget import Resources
from services.runtime.memory.memory_probe import LiveBytes, fake_tensors, placed_copy
from services.runtime.weights import integer_products
from services.runtime.weights.placement import parts_of
from services.runtime.workers.messages import Message
from services.text_encoder.engine import LEFT_OUT
from tests.allocations import peak_allocated_bytes
from tests.published_workers import (
    adapter_for,
    architecture,
    decode,
    denoise,
    encode,
    encode_audio,
    measured,
    with_random_weights,
    without_weights,
)

THREADS = 2
ADAPTER_DTYPE = torch.bfloat16

# Elsewhere bfloat16 has other kernels, which nobody would choose.
COMPUTES_IN_BF16 = resolve_dtype("auto", "cpu", "bfloat16") == "bfloat16"
FAST_DTYPE = torch.bfloat16 if COMPUTES_IN_BF16 else torch.float32
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


def memory_of(stage: str, name: str, layer_count: int | None, dtype: torch.dtype) -> StageMemory:
    return measured(stage, architecture(name, layer_count), dtype, THREADS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pass_of_the_published_transformer(dtype: torch.dtype) -> None:
    worker = with_random_weights("dit", architecture("turbo", layer_count=2), dtype)
    memory = memory_of("dit", "turbo", 2, dtype)
    frames = 250 if dtype == torch.float32 else 2250  # in full precision that takes long
    assert_close(
        memory.activation_bytes("single", frames), peak_allocated_bytes(denoise(worker, frames, dtype))
    )


def test_a_guided_pass_of_the_published_transformer() -> None:
    worker = with_random_weights("dit", architecture("base", layer_count=2), FAST_DTYPE)
    memory = memory_of("dit", "base", 2, FAST_DTYPE)
    # The halves taking turns, and both at once, where the curve has a bend behind it.
    for mode, frames in (("single", 250), ("guided", 1100)):
        allocated = peak_allocated_bytes(denoise(worker, frames, FAST_DTYPE, split=mode == "single"))
        assert_close(memory.activation_bytes(mode, frames), allocated)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_batch_with_int8_weights(dtype: torch.dtype) -> None:
    worker = with_random_weights("dit", architecture("turbo", layer_count=2), dtype, "int8")
    memory = memory_of("dit", "turbo", 2, dtype)
    allocated = peak_allocated_bytes(denoise(worker, 750, dtype, items=3))
    assert_close(memory.total_bytes("single", 750, "int8", 3) - memory.resting_bytes("int8"), allocated)


def test_a_batch_with_guidance() -> None:
    worker = with_random_weights("dit", architecture("base", layer_count=2), FAST_DTYPE)
    memory = memory_of("dit", "base", 2, FAST_DTYPE)
    one, four = (
        peak_allocated_bytes(denoise(worker, 250, FAST_DTYPE, split=True, items=count)) for count in (1, 4)
    )
    per_item = memory.total_bytes("single", 250, "none", 4) - memory.total_bytes("single", 250, "none", 1)
    assert 3 * 3 * 250 * 64 * FAST_DTYPE.itemsize == per_item >= 0.98 * (four - one)


@pytest.mark.parametrize(
    ("name", "mode", "frames"),
    [
        ("turbo", "single", 750),
        ("turbo", "single", 4500),
        ("turbo", "single", 15000),
        ("base", "guided", 2250),
    ],
)
def test_a_pass_with_an_adapter(tmp_path: Path, name: str, mode: str, frames: int) -> None:
    """Counted on fake tensors, in what PEFT makes of the transformer."""
    worker = without_weights("dit", architecture(name, layer_count=2))
    use = adapter_for(worker, tmp_path, rank=16)
    plain_bytes = passing_bytes(worker, mode, frames)
    with worker.engine.adapters.applied([use]):
        adapted_bytes = passing_bytes(worker, mode, frames)
    adapted_bytes += use.parameter_count * ADAPTER_DTYPE.itemsize
    assert_close(planned_bytes(plain_bytes, frames, use, is_guided=mode == "guided"), adapted_bytes)


def passing_bytes(worker: Any, mode: str, frames: int) -> int:
    with fake_tensors():
        engine = placed_copy(worker, ADAPTER_DTYPE, "none").engine
        return dit_memory._peak_bytes(engine, mode, frames, None)


def planned_bytes(plain_bytes: int, frames: int, use: AdapterUse, *, is_guided: bool) -> int:
    """What the budget has for a pass that takes `plain_bytes` without adapters."""
    curve = ActivationCurve(((frames, plain_bytes),))
    modes = ("guided", "single") if is_guided else ("single",)
    activations: dict[Any, ActivationCurve] = {(mode, "none"): curve for mode in modes}
    activations["prompt", "none"] = ActivationCurve(((1, 0),))
    memory = StageMemory(0, 0, {"none": 0}, activations)
    fields = {
        "seeds": [1],
        "guidance_scale": 7.0,
        "quantization": "none",
        "adapters": [dataclasses.asdict(use)],
    }
    tensors = (
        WireTensor.from_torch("context_latents", torch.zeros(1, frames, 128)),
        WireTensor.from_torch("encoder_hidden_states", torch.zeros(1, 1, 2048)),
    )
    resources = Resources("cuda:0", 1 << 40, "turbo", "bfloat16", "none", {"bfloat16": memory}, 128)
    rungs = DitBudget().rungs(Message("denoise", fields, tensors), resources, "bfloat16")
    assert len(rungs) == len(modes)
    return rungs[0].attempt.vram_bytes


def test_int8_weights_of_a_cuda_device_are_not_planned_as_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = without_weights("dit", architecture("turbo", layer_count=2))
    curves = []
    for has_instructions in (True, False):
        monkeypatch.setattr(integer_products, "has_feature", lambda *names, found=has_instructions: found)
        curves.append(worker.memory(torch.bfloat16, None).activations["single", "int8"])
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("mode", "with_plain"), [("single", True), ("guided", False)])
def test_what_a_job_keeps_of_its_prompts_is_planned(mode: str, with_plain: bool) -> None:
    """On a device with room for it; on a smaller one every pass makes it again."""
    tokens, frames = 700, 250
    worker = without_weights("dit", architecture("base", layer_count=2))
    token_bytes = worker.engine.transformer_pass.prompt_token_bytes(ADAPTER_DTYPE)
    kept_count = tokens * (2 if mode == "guided" else 1) + (tokens if with_plain else 0)
    with fake_tensors():
        engine = placed_copy(worker, ADAPTER_DTYPE, "none").engine

        def states(count: int, width: int) -> torch.Tensor:
            return torch.zeros(1, count, width, dtype=ADAPTER_DTYPE)

        given = Conditioning(states(tokens, 2048), states(1, 2048), states(frames, 128), states(tokens, 2048))
        parameters = DenoiseParameters(
            seeds=(1,),
            split_guidance=mode == "single",
            audio_cover_strength=0.5 if with_plain else 1.0,
        )
        found = []
        for keeps_prompt in (False, True):
            counter = LiveBytes(None)
            with counter:
                kept = dataclasses.replace(parameters, keeps_prompt=keeps_prompt)
                prompts = engine.prepare(given, kept, [0.5])
                found.append(counter.live_bytes)
            del prompts
    # One token more where nothing, as a prompt, is a pass of its own.
    grown = found[1] - found[0] - token_bytes * kept_count
    assert 0 <= grown <= token_bytes


@pytest.mark.parametrize("tokens", [1, 256, 2305])
def test_a_prompt_is_kept_where_the_device_has_room(tokens: int) -> None:
    memory = memory_of("dit", "turbo", 2, ADAPTER_DTYPE)
    worker = without_weights("dit", architecture("turbo", layer_count=2))
    kept_bytes = (tokens + 1) * worker.engine.transformer_pass.prompt_token_bytes(ADAPTER_DTYPE)
    tensors = (
        WireTensor.from_torch("context_latents", torch.zeros(1, 250, 128)),
        WireTensor.from_torch("encoder_hidden_states", torch.zeros(1, tokens, 2048)),
    )
    fields = {"seeds": [1], "guidance_scale": 1.0, "quantization": "none"}
    plain_bytes = memory.total_bytes("single", 250)
    for missing_bytes in (0, 1):
        device_bytes = plain_bytes + kept_bytes - missing_bytes
        resources = Resources("cuda:0", device_bytes, "turbo", "bfloat16", "none", {"bfloat16": memory}, 128)
        rungs = DitBudget().rungs(Message("denoise", fields, tensors), resources, "bfloat16")
        found = [(r.attempt.request.fields["keeps_prompt"], r.attempt.vram_bytes) for r in rungs]
        kept = [] if missing_bytes else [(True, plain_bytes + kept_bytes)]
        assert found == [*kept, (False, plain_bytes)]  # at last without, should fewer bytes be free


def test_placing_a_decoder_takes_little_more_than_its_weights() -> None:
    worker = without_weights("vae", architecture("turbo"))
    weights_bytes = measured("vae", architecture("turbo"), torch.bfloat16, None).weights_bytes["none"]
    with fake_tensors():
        fake = placed_copy(worker, torch.bfloat16, "none", place=lambda *how: None)
        counter = LiveBytes(None)
        with counter:
            fake.place(torch.device("cpu"), torch.bfloat16, "none")
    assert weights_bytes <= counter.peak_bytes < weights_bytes + 20 * MIB


def test_two_layers_have_the_peak_of_all() -> None:
    peaks = []
    for layer_count in (2, 24):
        worker = without_weights("dit", architecture("turbo", layer_count))
        with fake_tensors():
            engine = placed_copy(worker, torch.bfloat16, "none").engine
            assert len(engine.transformer.layers) == layer_count
            peaks.append(dit_memory._peak_bytes(engine, "single", 4500, None))
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_tile_of_the_published_vae(dtype: torch.dtype) -> None:
    memory = memory_of("vae", "turbo", None, dtype)
    worker = with_random_weights("vae", architecture("turbo"), dtype)
    for tile in (13, 52, 64):  # 52: just behind the largest step of the curve
        allocated = peak_allocated_bytes(decode(worker, tile))
        assert_close(memory.activation_bytes("tile", tile + 2 * memory.halo_frame_count), allocated)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tile_that_the_published_vae_encodes(dtype: torch.dtype) -> None:
    memory = memory_of("vae", "turbo", None, dtype)
    worker = with_random_weights("vae", architecture("turbo"), dtype)
    for tile in (8,) if dtype == torch.float32 else (8, 32):
        allocated = peak_allocated_bytes(encode_audio(worker, tile))
        planned = memory.activation_bytes("encode_tile", tile + 2 * memory.encoder_halo_frame_count)
        assert_close(planned, allocated)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_longest_prompt_of_the_published_encoders(dtype: torch.dtype) -> None:
    checkpoint = architecture("turbo", layer_count=2)
    memory = measured("text_encoder", checkpoint, dtype, THREADS)
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
        memory = measured(stage, checkpoint, dtype, THREADS)
        worker = with_random_weights(stage, checkpoint, dtype)
        left_out = {"dit": EMBEDDERS, "vae": (), "text_encoder": LEFT_OUT}[stage]
        assert memory.weights_bytes["none"] == sum(
            tensor.numel() * tensor.element_size()
            for module in worker.modules()
            for _, part in parts_of(module, left_out)
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False))
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
