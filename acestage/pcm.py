"""Audio as whole numbers, as most files have it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def to_pcm(samples: npt.NDArray[np.float32], bit_count: int) -> npt.NDArray[np.int32]:
    """`samples`, full scale at ±1, as whole numbers of so many bits, up to 24.

    They are rounded, those halfway to the even number, and cut off at full scale; what is no number is 0.
    """
    # A power of two is exact in float32, so only `rint` rounds.
    full_scale = 2.0 ** (bit_count - 1)
    values = np.rint(np.nan_to_num(np.clip(samples, -1.0, 1.0)) * full_scale)
    whole: npt.NDArray[np.int32] = np.minimum(values, full_scale - 1.0).astype(np.int32)
    return whole
