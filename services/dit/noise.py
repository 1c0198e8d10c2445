"""The noise of a job: one generator an item, so that what an item hears depends on its seed alone."""

from __future__ import annotations

import torch


class ItemNoise:
    """Draws noise for all items of a batch, on the CPU in float32, whatever the device and the data type.

    Args:
        seeds: one for each item.
    """

    def __init__(self, seeds: tuple[int, ...]) -> None:
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def draw(self, frame_count: int, channel_count: int) -> torch.Tensor:
        """Noise [items, frame_count, channel_count]; every call goes on where the one before ended."""
        shape = (1, frame_count, channel_count)
        return torch.cat([torch.randn(shape, generator=generator) for generator in self._generators])
