"""Any number of channels to two."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

_SIDE = math.sqrt(0.5)
"""-3 dB: the weight of the centre and of the surround channels in ITU-R BS.775-3, annex 4, table 2."""

_LEFT = {"L": 1.0, "C": _SIDE, "BL": _SIDE, "SL": _SIDE}
_RIGHT = {"R": 1.0, "C": _SIDE, "BR": _SIDE, "SR": _SIDE}
"""The low-frequency channel is left out, as the recommendation has it. What it says of one pair of surround
channels holds here for both pairs of 7.1."""

_WAVE_ORDERS: Mapping[int, tuple[str, ...]] = {
    6: ("L", "R", "C", "LFE", "BL", "BR"),
    8: ("L", "R", "C", "LFE", "BL", "BR", "SL", "SR"),
}
"""The orders that the channel mask of WAVE files gives, which FLAC follows too."""

_OGG_ORDERS: Mapping[int, tuple[str, ...]] = {
    6: ("L", "C", "R", "BL", "BR", "LFE"),
    8: ("L", "C", "R", "SL", "SR", "BL", "BR", "LFE"),
}
"""The orders of the Vorbis I specification, section 4.3.9; Opus has the same (RFC 7845, section 5.1.1.2)."""


def weights(channel_count: int, container: str) -> npt.NDArray[np.float32]:
    """The weights [channel_count, 2] by which channels are mixed to left and right.

    Mono goes to both, stereo stays as it is, 5.1 and 7.1 are mixed by ITU-R BS.775, and of any other number
    both get the mean. No column sums to more than 1, so that nothing gets louder than full scale.

    Args:
        channel_count: at least 1.
        container: libsndfile's name of the file's format; Ogg has an order of channels of its own.
    """
    if channel_count == 2:
        return np.eye(2, dtype=np.float32)
    order = (_OGG_ORDERS if container == "OGG" else _WAVE_ORDERS).get(channel_count)
    if order is None:
        return np.full((channel_count, 2), 1.0 / channel_count, dtype=np.float32)
    found = np.array([[side.get(name, 0.0) for side in (_LEFT, _RIGHT)] for name in order], np.float32)
    scaled: npt.NDArray[np.float32] = found / found.sum(axis=0)
    return scaled
