"""The timbre of silence, which every song without a reference has: computed once for all of a stage."""

from __future__ import annotations

import mmap
from typing import get_args

import torch

from acestage.planning import Quantization

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
_ALIGNMENT = 64


class SilentTimbres:
    """Memory that a process shares with all that are forked of it: what one keeps there, the others find.

    Only one of them may keep something at a time.

    Args:
        width: values of a timbre.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._slot_bytes = _ALIGNMENT + -(-width * 4 // _ALIGNMENT) * _ALIGNMENT
        self._memory = mmap.mmap(-1, self._slot_bytes * len(_DTYPES) * len(_QUANTIZATIONS))

    def slot(self, dtype: torch.dtype, quantization: Quantization) -> SilentTimbre:
        """The place for what weights that are held so compute."""
        index = _DTYPES.index(dtype) * len(_QUANTIZATIONS) + _QUANTIZATIONS.index(quantization)
        return SilentTimbre(self._memory, index * self._slot_bytes, self._width, dtype)


class SilentTimbre:
    """One timbre in shared memory, or none yet."""

    def __init__(self, memory: mmap.mmap, offset: int, width: int, dtype: torch.dtype) -> None:
        self._is_kept = torch.frombuffer(memory, dtype=torch.bool, count=1, offset=offset)
        self._values = torch.frombuffer(memory, dtype=dtype, count=width, offset=offset + _ALIGNMENT)

    def get(self, device: torch.device) -> torch.Tensor | None:
        """The timbre [1, 1, width] on `device`; None where nobody has kept it."""
        if not self._is_kept:
            return None
        return self._values.to(device, copy=True).view(1, 1, -1)

    def keep(self, timbre: torch.Tensor) -> None:
        """Keeps `timbre` [1, 1, width]. A process that dies meanwhile leaves it as not kept."""
        self._values.copy_(timbre.flatten())
        self._is_kept.fill_(True)
