"""What the plan assumes of a CUDA device, measured on one. Run by `make gpu-check`, which prints it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acestage.planning import CUDA_CONTEXT_BYTES, MIB, RESERVE_BYTES, Quantization, StageMemory
from acestage.tensors import WireTensor
from services.dit.parameters import DenoiseParameters
from services.runtime.devices.device_memory import read_device_memory
from services.runtime.devices.device_usage import CudaUsage
from services.runtime.jobs.stay import FREE_TIMEOUT_S
from services.runtime.preload.facts import PreloadFacts
from services.runtime.preload.models import StageModels
from services.runtime.stage_config import StageConfig
from services.runtime.workers import worker
from services.runtime.workers.messages import Message
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.prompt import Prompt
from tests.free_devices import is_free
from tests.published_workers import (
    adapter_for,
    architecture,
    with_random_weights,
    without_weights,
    work_of,
)

DEVICE = "cuda:0"
NOWHERE = Path("/nowhere")
KEPT_BYTES = 4 * MIB
"""Two blocks of torch's allocator, which may be laid out in another way after another job."""

TAKE_DEVICE = """
import sys, torch
from pathlib import Path
from services.runtime.devices.device_lock import DeviceLock
lock = DeviceLock(Path(sys.argv[1]), "cuda:0", fencing_token=1, timeout_s=5.0)
lock.__enter__()
held = torch.zeros(int(sys.argv[2]), dtype=torch.uint8, device="cuda:0")
(torch.ones(64, 64, device="cuda:0") @ torch.ones(64, 64, device="cuda:0")).sum().item()
half = {"dtype": torch.float16, "device": "cuda:0"}
torch.nn.functional.conv2d(torch.ones(1, 64, 1, 256, **half), torch.ones(64, 64, 1, 7, **half)).sum().item()
torch.cuda.empty_cache()  # what is left is the context, with what cuBLAS and cuDNN loaded into it
print("ready", flush=True)
sys.stdin.read()
"""


def free_bytes() -> int:
    return read_device_memory(DEVICE, None, NOWHERE).free_bytes


def taking(run_dir: Path, size: int) -> subprocess.Popen[str]:
    """A process that has the lock of the device and `size` bytes on it."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_DEVICE, str(run_dir), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_context_takes_no_more_than_planned(tmp_path: Path) -> None:
    before = free_bytes()
    with taking(tmp_path, 1) as process:
        context = before - free_bytes()
        process.kill()
    print(f"context: {context / MIB:.0f} MiB, planned {CUDA_CONTEXT_BYTES / MIB:.0f} MiB")
    assert context <= CUDA_CONTEXT_BYTES


def test_the_device_is_free_soon_after_its_lock(tmp_path: Path) -> None:
    """The lock goes with the process; the driver may still clean up. A new worker waits so long for it."""
    before = free_bytes()
    with taking(tmp_path, 1 << 30) as process:
        os.kill(process.pid, signal.SIGKILL)
        killed = time.monotonic()
        deadline = killed + 30
        while not is_free(tmp_path, DEVICE):
            assert time.monotonic() < deadline
        unlocked = time.monotonic()
        while before - free_bytes() > 64 * MIB:
            assert time.monotonic() < deadline
        freed = time.monotonic()
    print(f"after SIGKILL: lock free in {unlocked - killed:.3f} s, memory in {freed - killed:.3f} s")
    assert freed - unlocked < FREE_TIMEOUT_S


@pytest.mark.parametrize(
    ("model", "stage", "mode", "frames", "quantization"),
    [
        ("turbo", "text_encoder", "encode", 4500, "none"),
        ("turbo", "text_encoder", "codes", 4500, "none"),
        ("turbo", "dit", "single", 750, "none"),
        ("turbo", "dit", "single", 4500, "none"),
        ("turbo", "dit", "single", 15000, "none"),
        ("turbo", "dit", "single", 4500, "int8"),
        ("base", "dit", "guided", 4500, "none"),
        ("turbo", "vae", "tile", 13, "none"),
        ("turbo", "vae", "tile", 52, "none"),
        ("turbo", "vae", "tile", 64, "none"),
        ("turbo", "vae", "tile", 128, "none"),
        ("turbo", "vae", "encode_tile", 64, "none"),
        ("turbo", "vae", "encode_tile", 128, "none"),
    ],
)
def test_the_peak_of_a_stage_is_what_was_planned(
    model: str, stage: str, mode: str, frames: int, quantization: Quantization
) -> None:
    dtype = half_type()
    checkpoint = architecture(model)
    memory: StageMemory = without_weights(stage, checkpoint).memory(dtype, None)
    torch.cuda.empty_cache()
    ones = torch.ones(64, 64, dtype=dtype, device=DEVICE)
    (ones @ ones).sum().item()  # cuBLAS keeps a workspace from its first product on: the reserve has that
    del ones
    made = with_random_weights(stage, checkpoint, dtype, quantization, device=DEVICE)
    gc.collect()
    torch.cuda.empty_cache()
    weights_bytes = torch.cuda.memory_allocated(DEVICE)
    work = work_of(made, mode, frames, dtype)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    with torch.no_grad():
        work()
    peak = torch.cuda.max_memory_allocated(DEVICE) - weights_bytes
    reserved = torch.cuda.max_memory_reserved(DEVICE)
    halos = {"tile": memory.halo_frame_count, "encode_tile": memory.encoder_halo_frame_count}
    planned = memory.activation_bytes(mode, frames + 2 * halos.get(mode, 0), quantization)
    print(
        f"{model} {stage} {mode} {frames} {quantization}: weights {weights_bytes / MIB:.0f} MiB "
        f"(planned {memory.weights_bytes[quantization] / MIB:.0f}), "
        f"peak {peak / MIB:.0f} MiB (planned {planned / MIB:.0f}), reserved {reserved / MIB:.0f} MiB"
    )
    assert peak <= 1.02 * planned
    assert reserved <= memory.weights_bytes[quantization] + planned + RESERVE_BYTES


@pytest.mark.parametrize(("mode", "frames"), [("encode_tile", 64), ("encode_tile", 128), ("tile", 128)])
def test_the_vae_works_under_the_cap_of_its_worker(mode: str, frames: int) -> None:
    """Beside the peak, torch's allocator keeps free blocks, and has parts of blocks that are of no use."""
    dtype = half_type()
    checkpoint = architecture("turbo")
    memory: StageMemory = without_weights("vae", checkpoint).memory(dtype, None)
    halo = memory.halo_frame_count if mode == "tile" else memory.encoder_halo_frame_count
    planned = memory.total_bytes(mode, frames + 2 * halo)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(DEVICE)
    retry_count = torch.cuda.memory_stats(DEVICE).get("num_alloc_retries", 0)
    CudaUsage(DEVICE).cap(planned, memory.context_bytes)
    try:
        made = with_random_weights("vae", checkpoint, dtype, device=DEVICE)
        with torch.no_grad():
            work_of(made, mode, frames, dtype)()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    retry_count = torch.cuda.memory_stats(DEVICE)["num_alloc_retries"] - retry_count
    peak = torch.cuda.max_memory_allocated(DEVICE)
    reserved = torch.cuda.max_memory_reserved(DEVICE)
    cap = planned - memory.context_bytes
    print(
        f"vae {mode} {frames}: peak {peak / MIB:.0f}, reserved {reserved / MIB:.0f} of {cap / MIB:.0f} MiB "
        f"({RESERVE_BYTES / MIB:.0f} beside the planned peak); gave free blocks back {retry_count} times"
    )
    assert peak <= reserved <= cap


def half_type() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@dataclass(frozen=True)
class Jobs:
    """Two jobs of a stage: one that borrows no more than all do, and one that takes more for its time.

    Attributes:
        more_bytes: that the second one has on the device beside what it computes.
    """

    plain: Message
    borrowing: Message
    more_bytes: int


def zeros(name: str, *shape: int) -> WireTensor:
    return WireTensor.from_torch(name, torch.zeros(shape))


def vae_jobs(made: Any, _: Path) -> Jobs:
    fields = {"frame_count": 20, "tile_frame_count": 0, "start_frame": 0}
    latents = zeros("latents", 1, 20, made.engine.latent_channel_count)
    audio = zeros("audio", 1, 20 * made.engine.hop_sample_count, 2)
    return Jobs(
        Message("decode", {**fields, "stop_frame": 20}, (latents,)),
        Message("encode", fields, (audio,)),
        stored_bytes(made.engine.encoder),
    )


def text_encoder_jobs(made: Any, _: Path) -> Jobs:
    prompt, source = Prompt("piano"), zeros("source_latents", 1, 250, 64)
    codec = made.engine.audio_codec
    return Jobs(
        Message("encode", EncodeJob(prompt, 250).to_fields(), (source,)),
        Message("encode", EncodeJob(prompt, 250, through_codes=True).to_fields(), (source,)),
        min(stored_bytes(codec.tokenizer), stored_bytes(codec.detokenizer)),
    )


def dit_jobs(made: Any, folder: Path) -> Jobs:
    width = made.engine.transformer.condition_embedder.in_features
    tensors = (
        zeros("encoder_hidden_states", 1, 100, width),
        zeros("null_condition", 1, 1, width),
        zeros("context_latents", 1, 250, 2 * made.engine.channel_count),
    )
    use = adapter_for(made, folder, rank=64)
    plain, adapted = (
        Message("denoise", asdict(DenoiseParameters((1,), step_count=2, adapters=uses)), tensors)
        for uses in ((), (use,))
    )
    return Jobs(plain, adapted, 2 * use.parameter_count)


JOBS = {"vae": vae_jobs, "text_encoder": text_encoder_jobs, "dit": dit_jobs}


def stored_bytes(module: torch.nn.Module) -> int:
    return 2 * sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("stage", JOBS)
def test_a_warm_worker_gives_back_what_a_job_borrowed(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder, the audio codec, adapters. A plain job comes first: libraries keep workspaces from it."""
    checkpoint = architecture("turbo", layer_count=None if stage == "vae" else 2)
    dtype = half_type()
    made = with_random_weights(stage, checkpoint, dtype, device=None)
    jobs = JOBS[stage](made, tmp_path)
    assert jobs.more_bytes > 2 * KEPT_BYTES, "too little to be noticed"
    config = StageConfig(
        stage=stage,
        checkpoints=("turbo",),
        checkpoints_dir="",
        variant=None,
        device=DEVICE,
        dtype="auto",
        run_dir=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        log_level="INFO",
    )
    room = {"vram_bytes": read_device_memory(DEVICE, None, NOWHERE).total_bytes, "context_bytes": 0}
    hold: dict[str, Any] = {"fencing_token": 1, "is_exclusive": False, **room}
    hold |= {"model": "turbo", "dtype": str(dtype).removeprefix("torch."), "quantization": "none"}
    requests = iter(
        Message("job", {"number": number, "kind": job.kind, "fields": job.fields, **room}, job.tensors)
        for number, job in enumerate((jobs.plain, jobs.borrowing, jobs.borrowing), start=1)
    )
    reserved: list[int] = []

    def hear(_: object, message: Message) -> None:
        assert message.kind != "error", message.fields
        if message.kind == "done":
            reserved.append(torch.cuda.memory_reserved(DEVICE))

    monkeypatch.setattr(worker, "_send", hear)
    inbox: Any = SimpleNamespace(
        next_request=lambda: next(requests, None),
        later=lambda job: iter(()),
        is_cancelled=lambda job: False,
        forget_later=lambda: None,
    )
    connection: Any = None
    models = StageModels(PreloadFacts({}), {"turbo": made}, {"turbo": {}})
    worker._hold(connection, inbox, models, config, Message("hold", hold))
    assert len(reserved) == 3
    assert reserved[0] > 0
    print(
        f"{stage}: {', '.join(f'{size / MIB:.0f}' for size in reserved)} MiB reserved after a plain job and "
        f"two that take {jobs.more_bytes / MIB:.0f} MiB more"
    )
    assert max(reserved) <= reserved[0] + KEPT_BYTES
