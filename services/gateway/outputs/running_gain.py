"""A gain for samples whose peak nobody knows yet."""

from __future__ import annotations

import numpy as np

from acestage.song_audio import CHANNEL_COUNT
from services.gateway.exports.codec import Samples

CEILING = np.float32(10 ** (-1 / 20))
"""-1 dBFS, to which finished songs are normalised."""

RAMP_SAMPLES = 480
"""10 ms at 48 kHz: short, and yet no click."""


class RunningGain:
    """Keeps blocks of samples below the ceiling. It starts at 1, falls where it must, and never rises.

    Where a block is too loud, the gain has come down over the last samples before it; these are held back for
    that until the next block is there.
    """

    def __init__(self) -> None:
        self.gain = np.float32(1.0)
        self._held = np.zeros((0, CHANNEL_COUNT), np.float32)

    def apply(self, block: Samples) -> Samples:
        """The samples [count, 2] that are final once `block` is known."""
        done = block[:0]
        peak = np.abs(block).max(initial=np.float32(0.0))
        if peak * self.gain > CEILING:
            lower = np.float32(CEILING / peak)
            done = self._held * np.linspace(self.gain, lower, len(self._held), dtype=np.float32)[:, None]
            self.gain, self._held = lower, block[:0]
        waiting = np.concatenate((self._held, block))
        count = max(len(waiting) - RAMP_SAMPLES, 0)
        self._held = waiting[count:]
        return np.concatenate((done, waiting[:count] * self.gain))

    def flush(self) -> Samples:
        """What was held back, at the end."""
        held, self._held = self._held, self._held[:0]
        return held * self.gain
