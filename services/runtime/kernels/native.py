"""A function in C++ that works on the memory of tensors on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Native = Callable[..., bool]


class NativeKernel:
    """Is compiled, kept and loaded as a `Kernel` is, but has nothing that runs in its place.

    Attributes:
        name: of the function, which C++ exports as in C, and which returns whether it did its work.
        path: the file with its source.
        source: what stood there at the start.
        compiled: the function, once there is one.
    """

    def __init__(self, path: Path, name: str, argument_types: Sequence[Any]) -> None:
        """Args:
        path: its source, which is compiled by itself.
        name: what the function is called there.
        argument_types: types of `ctypes`, one an argument.
        """
        self.path = path
        self.source = path.read_text()
        self.name = name
        self._argument_types = argument_types
        self.compiled: Native | None = None

    def load(self, path: Path, device: torch.device) -> Any:
        """What `use` takes.

        Raises:
            RuntimeError: the file is no library, or not one of this.
        """
        try:
            function = getattr(ctypes.CDLL(str(path)), self.name)
        except (OSError, AttributeError) as error:
            raise RuntimeError(str(error)) from error
        function.argtypes = self._argument_types
        function.restype = ctypes.c_bool
        return function

    def use(self, compiled: Native, device_type: str, dtype: torch.dtype) -> None:
        self.compiled = compiled

    def forget_compiled(self) -> None:
        """From now on has nothing."""
        self.compiled = None
