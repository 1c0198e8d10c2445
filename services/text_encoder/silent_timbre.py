"""The timbre of silence, which every song without a reference has: computed once for all of a stage."""

from __future__ import annotations

import mmap

import torch

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class SilentTimbres:
    """Memory that a process shares with all that are forked of it: what one keeps there, the others find.

    Only one of them may keep something at a time.

    Args:
        width: values of a timbre.
    """

    def __init__(self, width: int) -> None:
        shape = (len(_DTYPES), 1 + width)
        # float32 has all values of the other types.
        memory = mmap.mmap(-1, torch.Size(shape).numel() * torch.float32.itemsize)
        self._slots = torch.frombuffer(memory, dtype=torch.float32).view(shape)

    def slot(self, dtype: torch.dtype) -> SilentTimbre:
        """The place for the timbre in `dtype`."""
        return SilentTimbre(self._slots[_DTYPES.index(dtype)], dtype)


class SilentTimbre:
    """One timbre in shared memory, or none yet.

    Args:
        slot: [1 + width], in float32: 1 where a timbre is kept, else 0; and its values.
        dtype: the data type of the timbre.
    """

    def __init__(self, slot: torch.Tensor, dtype: torch.dtype) -> None:
        self._is_kept, self._values = slot[0], slot[1:]
        self._dtype = dtype

    def get(self, device: torch.device) -> torch.Tensor | None:
        """The timbre [1, 1, width] on `device`; None where nobody has kept it."""
        if not self._is_kept:
            return None
        return self._values.to(device, self._dtype, copy=True).view(1, 1, -1)

    def keep(self, timbre: torch.Tensor) -> None:
        """Keeps `timbre` [1, 1, width]. A process that dies meanwhile leaves it as not kept."""
        self._values.copy_(timbre.flatten())
        self._is_kept.fill_(1.0)
