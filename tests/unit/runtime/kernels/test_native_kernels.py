"""Functions in C++ are compiled, kept and found as other kernels are."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
import torch

from acestage.errors import FailedPreconditionError
from services.runtime.kernels.compiling import compile_kernel
from services.runtime.kernels.native import NativeKernel
from services.runtime.kernels.store import kernel_path, missing, use_compiled
from services.vae.kernels import snake

CPU = torch.device("cpu")
FLOAT32 = torch.float32
DOUBLING = """
extern "C" bool twice(float* numbers, long count) {
    for (long i = 0; i < count; ++i) numbers[i] *= 2;
    return count > 0;
}
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def native(folder: Path, source: str = DOUBLING, name: str = "twice") -> NativeKernel:
    path = folder / "twice.cpp"
    path.write_text(source)
    return NativeKernel(path, name, [ctypes.c_void_p, ctypes.c_long])


def compiled(kernel: NativeKernel, cache_dir: Path) -> Path:
    path = kernel_path(kernel, cache_dir, CPU, FLOAT32)
    compile_kernel(kernel, path, CPU, FLOAT32, cache_dir)
    return path


def test_it_is_compiled_and_used(tmp_path: Path) -> None:
    kernel = native(tmp_path)
    assert kernel.compiled is None
    assert missing((kernel,), tmp_path, CPU, FLOAT32) == [kernel]
    path = compiled(kernel, tmp_path)
    assert list(path.parent.iterdir()) == [path]
    assert missing((kernel,), tmp_path, CPU, FLOAT32) == []
    assert use_compiled((kernel,), tmp_path, CPU, FLOAT32)
    numbers = torch.arange(4.0)
    assert kernel.compiled is not None
    assert kernel.compiled(numbers.data_ptr(), 4) is True
    assert kernel.compiled(numbers.data_ptr(), 0) is False
    assert numbers.tolist() == [0, 2, 4, 6]
    kernel.forget_compiled()
    assert kernel.compiled is None


def test_it_is_used_with_all_others_or_not_at_all(tmp_path: Path) -> None:
    kernel = native(tmp_path)
    compiled(kernel, tmp_path)
    assert not use_compiled((snake, kernel), tmp_path, CPU, FLOAT32)
    assert kernel.compiled is None


def test_another_source_is_another_file(tmp_path: Path) -> None:
    paths = {
        kernel_path(native(tmp_path, source), tmp_path, CPU, FLOAT32)
        for source in (DOUBLING, DOUBLING.replace("*= 2", "*= 3"))
    }
    assert len(paths) == 2


@pytest.mark.parametrize("compiler", ["g++", "no-such-compiler", "/"])
def test_what_cannot_be_compiled_is_named(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    kernel = native(tmp_path, "no C++")
    with pytest.raises(FailedPreconditionError, match="twice cannot be compiled: ") as caught:
        compiled(kernel, tmp_path)
    assert ("twice.cpp" in caught.value.message) is (compiler == "g++")
    path = kernel_path(kernel, tmp_path, CPU, FLOAT32)
    assert list(path.parent.iterdir()) == []


def test_a_damaged_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel = native(tmp_path)
    compiled(kernel, tmp_path).write_bytes(b"no library")
    assert not use_compiled((kernel,), tmp_path, CPU, FLOAT32)
    assert "delete it, and run acestage warmup" in caplog.text


def test_a_library_of_something_else_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel = native(tmp_path, name="thrice")
    compiled(kernel, tmp_path)
    assert not use_compiled((kernel,), tmp_path, CPU, FLOAT32)
    assert "thrice" in caplog.text
