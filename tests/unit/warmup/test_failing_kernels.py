"""A kernel that cannot be compiled keeps no other from it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.errors import FailedPreconditionError
from acestage.settings import load_settings
from services.dit.kernels import KERNELS
from services.warmup import process
from services.warmup.wanted import WantedKernel

CPU = torch.device("cpu")


def test_the_others_are_compiled_and_the_first_fault_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [WantedKernel(kernel, torch.float32) for kernel in KERNELS]
    broken = {wanted[0], wanted[-1]}
    compiled = []

    def compile_most(kernel: Any, *others: object) -> None:
        if WantedKernel(kernel, torch.float32) in broken:
            raise FailedPreconditionError(f"{kernel.name} cannot be compiled: no such instruction")
        compiled.append(kernel)

    monkeypatch.setattr(process, "check_compiler", lambda device: None)
    monkeypatch.setattr(process, "compile_kernel", compile_most)
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, "")  # so that it is put back
    monkeypatch.setattr(tempfile, "tempdir", None)
    said: list[str] = []
    with pytest.raises(FailedPreconditionError) as caught:
        process._compile(wanted, load_settings(cache_dir=tmp_path), CPU, said.append)
    assert compiled == [one.kernel for one in wanted[1:-1]] != []
    assert [text.partition(":")[0] for text in said] == [str(one) for one in wanted[1:-1]]
    first = wanted[0].kernel.name
    fault = f"{first} cannot be compiled: no such instruction"
    assert caught.value.message == f"2 of {len(wanted)} kernels failed: {fault}"
