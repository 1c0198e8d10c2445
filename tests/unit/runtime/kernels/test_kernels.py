"""Kernels as they are written, chunk by chunk, and how compiled ones are found and used."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from services.dit import kernels as dit_kernels
from services.dit.kernels import AFTER_INTEGERS
from services.dit.kernels import KERNELS as DIT_KERNELS
from services.runtime.kernels import kernel as kernel_module
from services.runtime.kernels.int8_activations import KERNELS as INT8_KERNELS
from services.runtime.kernels.kernel import Argument, Kernel
from services.runtime.kernels.store import CompiledKernels, kernel_path, missing, use_compiled
from services.runtime.processes.private_folder import make_private
from services.vae.kernels import KERNELS as VAE_KERNELS
from tests.kernel_inputs import inputs, results

CPU = torch.device("cpu")
ALL = [
    pytest.param(kernel, id=kernel.name)
    for kernel in (*DIT_KERNELS, *AFTER_INTEGERS, *INT8_KERNELS, *VAE_KERNELS)
]

SOURCE = """
import torch
from services.runtime.kernels.kernel import kernel

@kernel("rows width, rows width")
def add(first, second):
    return first + second
"""


def load(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where `inspect` looks for the source
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def add(tmp_path: Path) -> Iterator[Kernel]:
    """A kernel of a module of its own."""
    yield load(tmp_path / "adding.py", SOURCE).add
    del sys.modules["adding"]


class Doubling:
    """Stands for a compiled kernel, told apart by its result."""

    def __init__(self) -> None:
        self.are_dense: list[bool] = []

    def run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        self.are_dense += [tensor.is_contiguous() for tensor in tensors]
        return [2 * tensors[0]]


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("rows width", Argument(("rows", "width"))),
        (" width", Argument(("width",))),
        ("rows heads 2 half", Argument(("rows", "heads", 2, "half"))),
        ("rows 1 float32", Argument(("rows", 1), torch.float32)),
    ],
)
def test_an_argument_is_read_from_its_text(text: str, argument: Argument) -> None:
    assert Argument.parse(text) == argument


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_of_rows_give_what_all_rows_give_at_once(
    kernel: Kernel, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = inputs(kernel, dtype)
    whole = results(kernel.function(*tensors))
    monkeypatch.setattr(kernel_module, "_CHUNK_NUMBERS", 10 * max(t[0].numel() for t in tensors))
    chunked = results(kernel(*tensors))
    assert len(chunked) == len(whole)
    for one, other in zip(chunked, whole, strict=True):
        assert one.dtype == other.dtype
        if not one.is_floating_point():
            assert (one - other).abs().max() <= 1
            continue
        # Not the same bits: the last numbers of a vector's length are computed in another way.
        torch.testing.assert_close(one, other, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_scale_is_applied_before_all_else() -> None:
    rows, update, scale, *parameters = inputs(dit_kernels.add_scaled_norm_modulate)
    found = dit_kernels.add_scaled_norm_modulate(rows, update, scale, *parameters)
    expected = dit_kernels.add_norm_modulate(rows, update * scale, *parameters)
    assert all(map(torch.equal, found, expected))

    heads, scale, weight, *turns = inputs(dit_kernels.scaled_norm_rotate)
    turned = dit_kernels.scaled_norm_rotate(heads, scale, weight, *turns)
    assert torch.equal(turned, dit_kernels.norm_rotate(heads * scale[..., None, None], weight, *turns))

    # Scales so small that the epsilon of the norm counts.
    heads, scale, weight = inputs(dit_kernels.scaled_norm)
    nothing = torch.zeros_like(weight)
    normed = dit_kernels.scaled_norm(heads, scale * 1e-3, weight)
    expected_rows = (heads * scale[..., None] * 1e-3).flatten(0, 1)
    expected_normed = dit_kernels.norm_modulate(expected_rows, weight, nothing, nothing)
    torch.testing.assert_close(normed.flatten(0, 1), expected_normed)


def test_what_is_compiled_serves_its_data_type_and_dense_tensors(add: Kernel) -> None:
    doubling = Doubling()
    add.use(doubling, "cpu", torch.float32)
    rows = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(add(rows.T, rows.T), 2 * rows.T)
    assert doubling.are_dense == [True, True]
    assert torch.equal(add(rows.double(), rows.double() + 1), 2 * rows.double() + 1)
    assert torch.equal(add(rows[:1], rows[:1] + 1), 2 * rows[:1] + 1)  # a single row
    add.forget_compiled()
    assert torch.equal(add(rows, rows + 1), 2 * rows + 1)


def test_a_file_is_for_one_data_type_and_one_version_of_the_source(add: Kernel, tmp_path: Path) -> None:
    changed = load(tmp_path / "changed.py", SOURCE.replace("first + second", "second + first")).add
    paths = {
        kernel_path(kernel, tmp_path, CPU, dtype)
        for kernel in (add, changed)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(paths) == 4
    assert len({path.parent for path in paths}) == 1
    del sys.modules["changed"]


def test_a_file_is_for_the_source_that_was_imported(add: Kernel, tmp_path: Path) -> None:
    """An update must not make a service that goes on look for what it does not run."""
    (tmp_path / "adding.py").write_text("import torch\n")
    same = load(tmp_path / "same.py", SOURCE).add
    del sys.modules["same"]
    assert kernel_path(add, tmp_path, CPU, torch.float32) == kernel_path(same, tmp_path, CPU, torch.float32)


def test_what_is_not_there_is_missing_and_nothing_is_used_until_all_is_there(
    add: Kernel, tmp_path: Path
) -> None:
    (other, *_) = VAE_KERNELS
    assert not use_compiled((add, other), tmp_path, CPU, torch.float32)
    path = kernel_path(add, tmp_path, CPU, torch.float32)
    path.parent.mkdir(parents=True)
    path.touch()
    assert missing((add, other), tmp_path, CPU, torch.float32) == [other]
    assert missing((add, other), tmp_path, CPU, torch.bfloat16) == [add, other]
    assert not use_compiled((add, other), tmp_path, CPU, torch.float32)
    assert not use_compiled((), tmp_path, CPU, torch.float32)


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_damaged_file_is_told_and_the_kernel_runs_as_it_is_written(
    add: Kernel, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kernel_path(add, tmp_path, CPU, torch.float32)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert not use_compiled((add,), tmp_path, CPU, torch.float32)
    assert str(path) in caplog.text
    assert "acestage warmup" in caplog.text
    assert add(torch.ones(2, 2), torch.ones(2, 2)).sum() == 8


def test_kernels_are_taken_as_soon_as_all_are_there(
    add: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(add, "load", lambda path, device: Doubling())
    later = CompiledKernels((add,), tmp_path, CPU, torch.float32)
    assert (later.look(), later.word) == (False, "eager")
    path = kernel_path(add, tmp_path, CPU, torch.float32)
    make_private(path.parent)
    path.touch(mode=0o700)
    assert (later.look(), later.word) == (True, "compiled")
    assert (later.look(), later.word) == (False, "compiled")  # nothing new
    assert torch.equal(add(torch.ones(2, 1), torch.ones(2, 1) + 1), 2 * torch.ones(2, 1))


def test_on_a_gpu_a_compiled_kernel_is_loaded_for_a_single_thread(
    add: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each call waits for the end of the last one, and the device for the next call."""
    given: list[object] = []

    def runner(
        path: str, model_count: int, device: str, kernels: str, run_single_threaded: bool = False
    ) -> Doubling:
        given.extend((path, model_count, device, kernels, run_single_threaded))
        return Doubling()

    monkeypatch.setattr(torch._C._aoti, "AOTIModelContainerRunnerCuda", runner, raising=False)
    add.load(Path("/cache/add.so"), torch.device("cuda:1"))
    assert given == ["/cache/add.so", 1, "cuda:1", "/cache", True]


def test_a_stage_without_kernels_has_no_word_for_them(tmp_path: Path) -> None:
    none = CompiledKernels((), tmp_path, CPU, torch.float32)
    assert (none.look(), none.word) == (False, "")
