"""Generation on a CUDA device. Run by `make gpu-check` alone; fails where there is no device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pynvml
import pytest

from acestage.generation import StageProgress
from acestage.generation_stream import request_to_pb
from tests.in_process import InProcess
from tests.running_stack import RunningStack, wait_until

RETURNED_BYTES = 64 << 20
"""Other programs move this much at most while a test runs."""


def used_bytes() -> int:
    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    finally:
        pynvml.nvmlShutdown()


@pytest.fixture(scope="module")
def gpu_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("gpu-stack")
    with RunningStack.start("tiny-turbo", folder, device="auto", ACESTAGE_DTYPE="float32") as stack:
        yield stack


def test_the_audio_is_that_of_the_cpu(gpu_stack: RunningStack) -> None:
    with gpu_stack.client() as client:
        generation = client.generate("warm piano", duration_s=10, seed=7)
    assert generation.settings.device == "cuda:0"
    expected = InProcess("tiny-turbo").generate(request_to_pb("warm piano", {"duration_s": 10, "seed": 7}))
    assert np.abs(generation.tracks[0].audio - expected[0]).max() < 1e-2
    assert all(stage.peak_device_bytes > 0 for stage in generation.stages)


def test_all_memory_comes_back_after_a_job(gpu_stack: RunningStack) -> None:
    gpu_stack.take_device("cuda:0")
    before = used_bytes()
    with gpu_stack.client() as client:
        client.generate("piano", duration_s=60, seed=1)
    gpu_stack.take_device("cuda:0")
    wait_until(lambda: used_bytes() - before < RETURNED_BYTES, "the memory is free again", 5)


def test_all_memory_comes_back_after_a_cancelled_job(gpu_stack: RunningStack) -> None:
    gpu_stack.take_device("cuda:0")
    before = used_bytes()
    with gpu_stack.client() as client:
        events = client.stream("piano", duration_s=600, step_count=200)
        for event in events:
            if isinstance(event, StageProgress):
                break
        events.close()  # type: ignore[attr-defined]
    wait_until(gpu_stack.is_idle, "the job is gone", 10)
    gpu_stack.take_device("cuda:0")
    wait_until(lambda: used_bytes() - before < RETURNED_BYTES, "the memory is free again", 5)


def test_bfloat16_is_chosen_and_gives_finite_audio(tmp_path: Path) -> None:
    with RunningStack.start("tiny-turbo", tmp_path, device="auto") as stack, stack.client() as client:
        generation = client.generate("piano", duration_s=10, seed=1)
    assert generation.settings.dtype in ("bfloat16", "float16")
    assert np.isfinite(generation.tracks[0].audio).all()
    assert generation.tracks[0].warnings == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_int8_weights_give_latents_close_to_the_first(tmp_path: Path, dtype: str) -> None:
    with RunningStack.start("tiny-turbo", tmp_path, device="auto", ACESTAGE_DTYPE=dtype) as stack:
        audio = []
        for quantization in ("none", "int8"):
            with stack.client() as client:
                generation = client.generate("piano", duration_s=10, seed=1, quantization=quantization)
            assert generation.settings.quantization == quantization
            audio.append(generation.tracks[0].audio)
    assert np.isfinite(audio[1]).all()
    assert np.corrcoef(audio[0][:, 0], audio[1][:, 0])[0, 1] > 0.8


def test_a_device_that_is_hidden_is_not_chosen(tmp_path: Path) -> None:
    """NVML, which counts the devices, does not know CUDA_VISIBLE_DEVICES."""
    with RunningStack.start("tiny-turbo", tmp_path, device="auto", CUDA_VISIBLE_DEVICES="") as stack:
        assert [stage.device for stage in stack.client().status().stages] == ["cpu"] * 3
