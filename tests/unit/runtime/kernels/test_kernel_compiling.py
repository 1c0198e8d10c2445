"""Compiling kernels: one for real, which takes about 15 s of the CPU."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acestage.errors import FailedPreconditionError
from services.dit.kernels import add_norm_modulate
from services.runtime.kernels.compiling import check_compiler, compile_kernel
from services.runtime.kernels.store import kernel_path, missing, use_compiled
from tests.kernel_inputs import inputs

CPU = torch.device("cpu")
TOLERANCE = 2e-6
"""Of float32, for values around 1: the compiler takes sums in another order, and fuses products with them."""


@pytest.fixture
def no_trace_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It leaves hundreds of MB, which pytest would keep for three runs."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.usefixtures("no_trace_of_the_compiler")
def test_compiled_a_kernel_gives_the_same_but_for_rounding_for_any_lengths(tmp_path: Path) -> None:
    kernel = add_norm_modulate
    check_compiler(CPU)
    path = kernel_path(kernel, tmp_path, CPU, torch.float32)
    compile_kernel(kernel, path, CPU, torch.float32, tmp_path)
    assert list(path.parent.iterdir()) == [path]
    assert missing((kernel,), tmp_path, CPU, torch.float32) == []
    try:
        assert use_compiled((kernel,), tmp_path, CPU, torch.float32)
        for lengths in ({}, {"rows": 1000, "width": 64}, {"rows": 2, "width": 2048}, {"rows": 1}):
            tensors = inputs(kernel, **lengths)
            for found, expected in zip(kernel(*tensors), kernel.function(*tensors), strict=True):
                torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    finally:
        kernel.forget_compiled()


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FailedPreconditionError, match="'no-such-compiler' is not on the PATH; accepted: g"):
        check_compiler(CPU)


def test_without_the_headers_of_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    with pytest.raises(FailedPreconditionError, match="headers of a CUDA toolkit: CUDA_HOME"):
        check_compiler(torch.device("cuda:0"))
