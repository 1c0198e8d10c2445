"""Compiles kernels ahead of time: functions of torch for any number of rows and any width, and C++.

Takes up to some seconds each and a C++ compiler for a CPU, Triton for a CUDA device. Imports torch's
compiler, which nothing else needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

from acestage.errors import FailedPreconditionError
from services.runtime.kernels.kernel import AnyKernel, Argument, Kernel
from services.runtime.kernels.native import NativeKernel
from services.runtime.processes.private_folder import OWN_FILE, make_private

_EXAMPLE_LENGTHS = {"rows": 512, "width": 2048, "heads": 16, "half": 64}
"""What the compiler takes for usual where it has to choose; all other lengths run as well."""


_NATIVE_TIMEOUT_S = 300.0
"""It takes one second, and longer behind all others on busy CPUs."""


def check_compiler(device: torch.device) -> None:
    """Raises:
    FailedPreconditionError: what compiling for `device` needs is not there.
    """
    wanted = _cpp_compiler()  # on a CUDA device as well, for what launches the kernels
    if shutil.which(wanted) is None:
        raise FailedPreconditionError(
            f"compiling kernels needs a C++ compiler: {wanted!r} is not on the PATH; accepted: g++, "
            "or what CXX names"
        )
    if device.type == "cuda":
        _check_cuda_compiler(device)


def _cpp_compiler() -> str:
    return os.environ.get("CXX", "g++")


def _check_cuda_compiler(device: torch.device) -> None:
    if torch.cuda.get_device_capability(device) < (7, 0):
        raise FailedPreconditionError(
            f"compiling kernels for {device} needs Triton, which works from compute capability 7.0 on"
        )
    if cpp_extension.CUDA_HOME is None:
        raise FailedPreconditionError(
            f"compiling kernels for {device} needs the headers of a CUDA toolkit: CUDA_HOME and CUDA_PATH "
            "are not set, nvcc is not on the PATH, and there is no /usr/local/cuda; accepted: the toolkit of "
            f"CUDA {torch.version.cuda}"
        )


def compile_kernel(
    kernel: AnyKernel, path: Path, device: torch.device, dtype: torch.dtype, work_folder: Path
) -> None:
    """Writes `kernel`, compiled, to `path`, which appears once it is complete; until then into `work_folder`.

    Both are on one file system.

    Raises:
        FailedPreconditionError: the compiler failed.
    """
    make_private(path.parent)
    with tempfile.TemporaryDirectory(dir=work_folder) as folder:
        library = Path(folder) / path.name
        try:
            if isinstance(kernel, NativeKernel):
                _compile_native(kernel, library)
            else:
                _compile(kernel, library, device, dtype)
        except RuntimeError as error:  # the compiler is broken, or out of memory
            raise FailedPreconditionError(f"{kernel.name} cannot be compiled: {error}") from error
        library.chmod(OWN_FILE)
        library.replace(path)


def _compile_native(kernel: NativeKernel, library: Path) -> None:
    options = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
    command = [_cpp_compiler(), *options, "-o", str(library), str(kernel.path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_NATIVE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr}")


def _compile(kernel: Kernel, library: Path, device: torch.device, dtype: torch.dtype) -> None:
    # As it is imported it makes a folder where TORCHINDUCTOR_CACHE_DIR, which callers set, says.
    from torch._inductor import aot_compile

    example = tuple(_example(argument, device, dtype) for argument in kernel.arguments)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own use of itself
        program = torch.export.export(
            _Function(kernel), example, dynamic_shapes=(tuple(_dynamic(a) for a in kernel.arguments),)
        )
        aot_compile(
            program.module(),
            example,
            options={
                "aot_inductor.output_path": str(library),
                "aot_inductor.embed_kernel_binary": example[0].is_cuda,
                # A worker says how many threads it takes, once it runs.
                "cpp.dynamic_threads": True,
            },
        )


class _Function(torch.nn.Module):
    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._function = kernel.function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self._function(*tensors)


def _example(argument: Argument, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    shape = [_EXAMPLE_LENGTHS[d] if isinstance(d, str) else d for d in argument.dimensions]
    return torch.ones(shape, dtype=argument.dtype or dtype, device=device)


def _dynamic(argument: Argument) -> dict[int, Any]:
    names = enumerate(argument.dimensions)
    return {index: torch.export.Dim(name, min=2) for index, name in names if isinstance(name, str)}
