"""Functions of tensors that run as they are written or compiled."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensor

from services.runtime.kernels.native import NativeKernel

ROWS = "rows"
"""The dimension along which a kernel's work is independent."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_CHUNK_NUMBERS = 1 << 20
"""Numbers of the largest argument that are worked on at once where a kernel is not compiled: its temporaries
are as large, and stay in the cache of a CPU."""


class Compiled(Protocol):
    """A compiled kernel, as torch loads it."""

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]: ...


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor that a kernel takes.

    Attributes:
        dimensions: names of those that may have any length, the same name for the same one; else the length.
        dtype: None: the type that the model computes in.
    """

    dimensions: tuple[str | int, ...]
    dtype: torch.dtype | None = None

    @classmethod
    def parse(cls, text: str) -> Argument:
        """From "rows width", or "rows 1 float32" with a data type at the end."""
        *names, last = text.split()
        dtype = _DTYPES.get(last)
        if dtype is None:
            names.append(last)
        return cls(tuple(int(name) if name.isdigit() else name for name in names), dtype)


class Kernel:
    """Calls `function`, or what it was compiled to for the device and the data type of the first tensor.

    All tensors are dense and in memory order. Results have as many rows as the first tensor.

    Attributes:
        name: what the function is called.
        function: what it computes, in terms of torch.
        arguments: what it takes.
        source: what decides about its compiled form, but for how it is compiled.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Argument, ...]) -> None:
        self.name = function.__name__
        self.function = function
        self.arguments = arguments
        module = inspect.getmodule(function)
        assert module is not None
        # The whole module, for it may call other functions there; now, for its file may change later.
        self.source = f"{arguments} {inspect.getsource(module)}"
        self._compiled: dict[tuple[str, torch.dtype], Compiled] = {}

    def __call__(self, *tensors: torch.Tensor) -> Any:
        first = tensors[0]
        compiled = self._compiled.get((first.device.type, first.dtype))
        # Fake tensors have nothing to compute on, and a single row is a shape that was not compiled for.
        if compiled is None or type(first) is not torch.Tensor or len(first) == 1:
            return self._by_chunks(tensors)
        results = compiled.run([tensor.contiguous() for tensor in tensors])
        return results[0] if len(results) == 1 else tuple(results)

    def load(self, path: Path, device: torch.device) -> Any:
        """What `use` takes.

        Raises:
            RuntimeError: the file is no library, or not one for `device`.
        """
        if device.type == "cpu":
            return torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)
        # Made for a single thread, it does not wait at each call until the device has finished the last one.
        runner = torch._C._aoti.AOTIModelContainerRunnerCuda
        return runner(str(path), 1, str(device), str(path.parent), True)  # type: ignore[call-overload]

    def use(self, compiled: Compiled, device_type: str, dtype: torch.dtype) -> None:
        """From now on takes `compiled` for tensors on such a device, of this type."""
        self._compiled[device_type, dtype] = compiled

    def forget_compiled(self) -> None:
        """From now on runs the function as it is written."""
        self._compiled.clear()

    def _by_chunks(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        row_count = len(tensors[0])
        if row_count <= 1:
            return self.function(*tensors)
        row_numbers = max(tensor.numel() // row_count for tensor in self._with_rows(tensors))
        step = max(1, _CHUNK_NUMBERS // row_numbers)
        if row_count <= step:
            return self.function(*tensors)
        wholes: tuple[torch.Tensor, ...] = ()
        # Of fake tensors two chunks tell the memory: the result of the one is there during the other.
        stop = min(row_count, 2 * step) if isinstance(tensors[0], FakeTensor) else row_count
        for start in range(0, stop, step):
            parts = self.function(*self._rows_of(tensors, slice(start, start + step)))
            is_single = isinstance(parts, torch.Tensor)
            parts = (parts,) if is_single else parts
            wholes = wholes or tuple(part.new_empty(row_count, *part.shape[1:]) for part in parts)
            for whole, part in zip(wholes, parts, strict=True):
                whole[start : start + step] = part
        return wholes[0] if is_single else wholes

    def _with_rows(self, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        pairs = zip(self.arguments, tensors, strict=True)
        return [tensor for argument, tensor in pairs if argument.dimensions[0] == ROWS]

    def _rows_of(self, tensors: tuple[torch.Tensor, ...], part: slice) -> list[torch.Tensor]:
        pairs = zip(self.arguments, tensors, strict=True)
        return [tensor[part] if argument.dimensions[0] == ROWS else tensor for argument, tensor in pairs]


AnyKernel = Kernel | NativeKernel


def kernel(arguments: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Makes a function a kernel.

    Args:
        arguments: the shape of each, separated by commas, for example "rows width, width".
    """
    parsed = tuple(Argument.parse(text) for text in arguments.split(","))
    return lambda function: Kernel(function, parsed)
