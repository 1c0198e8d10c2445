"""Count, peak, mean square and checksum of samples as they pass."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt


class SampleMeasure:
    """Measures blocks of samples, which must come in order.

    Attributes:
        sample_count: per channel.
        peak: the largest absolute sample; NaN once one is NaN.
        digest: SHA-256 of the samples as interleaved little-endian float32.
    """

    def __init__(self) -> None:
        self.sample_count = 0
        self.peak = 0.0
        self.digest = hashlib.sha256()
        self._value_count = 0
        self._square_sum = 0.0

    def add(self, samples: npt.NDArray[np.float32]) -> None:
        """Takes samples [count, channels], at least one of them, contiguous and little-endian."""
        self.sample_count += len(samples)
        self._value_count += samples.size
        # `max` of Python drops NaN, numpy's keeps it.
        self.peak = float(np.maximum(self.peak, np.abs(samples).max()))
        self._square_sum += float(np.square(samples, dtype=np.float64).sum())
        self.digest.update(samples.data)

    @property
    def rms(self) -> float:
        """Over all channels; 0 before the first sample."""
        return math.sqrt(self._square_sum / max(self._value_count, 1))
