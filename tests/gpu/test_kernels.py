"""Kernels compiled for a CUDA device. Run by `make gpu-check` alone; fails where there is no device."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from services.dit.kernels import KERNELS as DIT_KERNELS
from services.runtime.kernels.compiling import check_compiler, compile_kernel
from services.runtime.kernels.kernel import Kernel
from services.runtime.kernels.store import kernel_path, use_compiled
from services.vae.kernels import KERNELS as VAE_KERNELS
from tests.kernel_inputs import inputs, results

DEVICE = torch.device("cuda:0")
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Compiled, half types are rounded once, at the end."""


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kernel", [*DIT_KERNELS, *VAE_KERNELS], ids=lambda kernel: kernel.name)
def test_a_kernel_that_was_compiled_gives_what_it_is_written_to_give(
    kernel: Kernel, dtype: torch.dtype, tmp_path: Path
) -> None:
    check_compiler(DEVICE)
    start = time.monotonic()
    compile_kernel(kernel, kernel_path(kernel, tmp_path, DEVICE, dtype), DEVICE, dtype, tmp_path)
    print(f"{kernel.name}, {dtype}: compiled in {time.monotonic() - start:.1f} s")
    try:
        assert use_compiled((kernel,), tmp_path, DEVICE, dtype)
        for lengths in (dict[str, int](), {"rows": 1000, "width": 2048, "half": 64}, {"rows": 1}):
            tensors = inputs(kernel, dtype, "cuda:0", **lengths)
            pairs = zip(results(kernel(*tensors)), results(kernel.function(*tensors)), strict=True)
            for found, expected in pairs:
                tolerance = TOLERANCES[dtype]
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    finally:
        kernel.forget_compiled()


def test_calls_of_a_compiled_kernel_do_not_wait_for_the_device(tmp_path: Path) -> None:
    (kernel,) = (each for each in DIT_KERNELS if each.name == "gated_silu")
    path = kernel_path(kernel, tmp_path, DEVICE, torch.float32)
    compile_kernel(kernel, path, DEVICE, torch.float32, tmp_path)
    tensors = inputs(kernel, torch.float32, "cuda:0")
    try:
        assert use_compiled((kernel,), tmp_path, DEVICE, torch.float32)
        kernel(*tensors)  # which loads what it needs
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)  # type: ignore[no-untyped-call]  # about a second
        slept = torch.Event("cuda")
        slept.record()
        kernel(*tensors)
        kernel(*tensors)
        assert not slept.query()
        torch.cuda.synchronize()
    finally:
        kernel.forget_compiled()
