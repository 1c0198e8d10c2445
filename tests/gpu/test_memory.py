"""What the plan assumes of a CUDA device, measured on one. Run by `make gpu-check`, which prints it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from acestage.planning import CUDA_CONTEXT_BYTES, MIB, RESERVE_BYTES
from services.runtime.device_lock import is_free
from services.runtime.device_memory import read_device_memory
from services.runtime.stay import FREE_TIMEOUT_S
from tests.published_workers import (
    architecture,
    with_random_weights,
    without_weights,
    work_of,
)

DEVICE = "cuda:0"
NOWHERE = Path("/nowhere")

TAKE_DEVICE = """
import sys, torch
from pathlib import Path
from services.runtime.device_lock import DeviceLock
lock = DeviceLock(Path(sys.argv[1]), "cuda:0", fencing_token=1, timeout_s=5.0)
lock.__enter__()
held = torch.zeros(int(sys.argv[2]), dtype=torch.uint8, device="cuda:0")
(torch.ones(64, 64, device="cuda:0") @ torch.ones(64, 64, device="cuda:0")).sum().item()
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
    ("stage", "mode", "frames", "quantization"),
    [
        ("text_encoder", "encode", 4500, "none"),
        ("text_encoder", "codes", 4500, "none"),
        ("dit", "single", 750, "none"),
        ("dit", "single", 4500, "none"),
        ("dit", "single", 15000, "none"),
        ("dit", "single", 4500, "int8"),
        ("vae", "tile", 64, "none"),
        ("vae", "tile", 128, "none"),
    ],
)
def test_the_peak_of_a_stage_is_what_was_planned(
    stage: str, mode: str, frames: int, quantization: str
) -> None:
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    checkpoint = architecture("turbo")
    memory = without_weights(stage, checkpoint).memory(dtype, None)
    torch.cuda.empty_cache()
    worker = with_random_weights(stage, checkpoint, dtype, quantization, device=DEVICE)  # type: ignore[arg-type]
    gc.collect()
    torch.cuda.empty_cache()
    weights_bytes = torch.cuda.memory_allocated(DEVICE)
    work = work_of(worker, mode, frames, dtype)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    with torch.no_grad():
        work()
    peak = torch.cuda.max_memory_allocated(DEVICE) - weights_bytes
    reserved = torch.cuda.max_memory_reserved(DEVICE)
    decoded = frames + 2 * memory.halo_frame_count
    planned = memory.activation_bytes(mode, decoded, quantization)  # type: ignore[arg-type]
    print(
        f"{stage} {mode} {frames} {quantization}: weights {weights_bytes / MIB:.0f} MiB "
        f"(planned {memory.weights_bytes[quantization] / MIB:.0f}), "  # type: ignore[index]
        f"peak {peak / MIB:.0f} MiB (planned {planned / MIB:.0f}), reserved {reserved / MIB:.0f} MiB"
    )
    assert peak <= 1.02 * planned
    assert reserved <= memory.weights_bytes[quantization] + planned + RESERVE_BYTES  # type: ignore[index]
