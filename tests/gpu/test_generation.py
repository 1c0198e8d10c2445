"""Generation on a CUDA device. Run by `make gpu-check` alone; fails where there is no device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest

from acestage.generation import StageProgress
from acestage.generation_options import Adapter
from acestage.generation_request import request_to_pb
from scripts.random_adapter import write_adapter
from tests.in_process import InProcess
from tests.running_stack import RunningStack, wait_until

DEVICE = "cuda:0"
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
    assert generation.settings.device == DEVICE
    expected = InProcess("tiny-turbo").generate(request_to_pb("warm piano", {"duration_s": 10, "seed": 7}))
    assert np.abs(generation.tracks[0].audio - expected[0]).max() < 1e-2
    assert all(stage.peak_device_bytes > 0 for stage in generation.stages)


SOURCE = (0.2 * np.random.default_rng(5).standard_normal((10 * 48_000, 2))).astype(np.float32)

TASKS: dict[str, dict[str, Any]] = {
    "cover": {"task": "cover", "audio_cover_strength": 0.5, "cover_noise_strength": 0.3},
    "repaint": {"task": "repaint", "repaint_start_s": 2, "repaint_end_s": 12},
    "sde": {"task": "cover-nofsq", "infer_method": "sde"},
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_with_a_source_give_the_audio_of_the_cpu(gpu_stack: RunningStack, name: str) -> None:
    options: Any = {"seed": 7, "step_count": 4, **TASKS[name]}
    with gpu_stack.client() as client:
        source_id = client.upload(SOURCE, sample_rate_hz=48_000).audio_id
        song = client.generate("piano", source_id=source_id, reference_id=source_id, **options)
    assert song.settings.device == DEVICE
    request = request_to_pb("piano", options | {"source_id": source_id, "reference_id": source_id})
    expected = InProcess("tiny-turbo").make(request, source=SOURCE, reference=SOURCE).audio
    difference = np.abs(song.tracks[0].audio - expected[0])
    # Only a cover goes through audio codes. One at the edge between two may fall to either side of it, so a
    # few frames may differ.
    assert np.quantile(difference, 0.9 if name == "cover" else 1.0) < 1e-2


def test_an_adapter_changes_the_song_and_leaves_the_base_as_it_was(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    write_adapter(
        folder / "voice.safetensors", checkpoints["turbo/diffusers"], file_format="diffusers", seed=3
    )
    with (
        RunningStack.start(
            checkpoints["turbo/diffusers"], tmp_path, device="auto", ACESTAGE_ADAPTERS_DIR=str(folder)
        ) as stack,
        stack.client() as client,
    ):
        options: Any = {"duration_s": 10, "seed": 1, "step_count": 3}
        plain = client.generate("piano", **options)
        changed = client.generate("piano", adapters=[Adapter("voice")], **options)
        again = client.generate("piano", **options)
    assert {song.settings.device for song in (plain, changed, again)} == {DEVICE}
    assert not np.array_equal(plain.tracks[0].audio, changed.tracks[0].audio)
    assert np.array_equal(plain.tracks[0].audio, again.tracks[0].audio)


def test_models_take_turns_on_the_device(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    both = ",".join(str(checkpoints[f"{variant}/diffusers"]) for variant in ("turbo", "base"))
    with (
        RunningStack.start(both, tmp_path, device="auto", MAX_CUDA_VRAM="4") as stack,
        stack.client() as client,
    ):
        for model in ("turbo-diffusers", "base-diffusers", "turbo-diffusers"):
            song = client.generate("piano", duration_s=10, seed=1, step_count=2, model=model)
            assert (song.settings.model.name, song.settings.device) == (model, DEVICE)
            assert np.isfinite(song.tracks[0].audio).all()


def test_all_memory_comes_back_after_a_job(gpu_stack: RunningStack) -> None:
    gpu_stack.take_device(DEVICE)
    before = used_bytes()
    with gpu_stack.client() as client:
        client.generate("piano", duration_s=60, seed=1)
    gpu_stack.take_device(DEVICE)
    wait_until(lambda: used_bytes() - before < RETURNED_BYTES, "the memory is free again", 5)


def test_all_memory_comes_back_after_a_cancelled_job(gpu_stack: RunningStack) -> None:
    gpu_stack.take_device(DEVICE)
    before = used_bytes()
    with gpu_stack.client() as client:
        events = client.stream("piano", duration_s=600, step_count=200)
        for event in events:
            if isinstance(event, StageProgress):
                break
        events.close()
    wait_until(gpu_stack.is_idle, "the job is gone", 10)
    gpu_stack.take_device(DEVICE)
    wait_until(lambda: used_bytes() - before < RETURNED_BYTES, "the memory is free again", 5)


def test_bfloat16_is_chosen_and_gives_finite_audio(tmp_path: Path) -> None:
    with RunningStack.start("tiny-turbo", tmp_path, device="auto") as stack, stack.client() as client:
        generation = client.generate("piano", duration_s=10, seed=1)
    assert generation.settings.device == DEVICE
    assert generation.settings.dtype in ("bfloat16", "float16")
    assert np.isfinite(generation.tracks[0].audio).all()
    assert generation.tracks[0].warnings == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_int8_weights_give_audio_close_to_the_first_and_the_same_once_they_are_kept(
    tmp_path: Path, dtype: str
) -> None:
    audio = []
    variables = {"ACESTAGE_DTYPE": dtype, "ACESTAGE_CACHE_DIR": str(tmp_path / "cache")}
    for folder in ("first", "second"):  # a new stack knows no prompt, so its text encoder works again
        with RunningStack.start("tiny-turbo", tmp_path / folder, device="auto", **variables) as stack:
            for quantization in ("none", "int8"):
                with stack.client() as client:
                    generation = client.generate("piano", duration_s=10, seed=1, quantization=quantization)
                assert (generation.settings.quantization, generation.settings.device) == (
                    quantization,
                    DEVICE,
                )
                audio.append(generation.tracks[0].audio)
    assert len(list((tmp_path / "cache" / "weights").iterdir())) == 3
    assert np.isfinite(audio[1]).all()
    assert np.corrcoef(audio[0][:, 0], audio[1][:, 0])[0, 1] > 0.8
    assert np.array_equal(audio[2], audio[0])  # the VAE's are kept as well
    assert np.array_equal(audio[3], audio[1])


def test_a_device_that_is_hidden_is_not_chosen(tmp_path: Path) -> None:
    """NVML, which counts the devices, does not know CUDA_VISIBLE_DEVICES."""
    with RunningStack.start("tiny-turbo", tmp_path, device="auto", CUDA_VISIBLE_DEVICES="") as stack:
        assert [stage.device for stage in stack.client().status().stages] == ["cpu"] * 3
