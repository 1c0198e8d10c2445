"""The tier table of ACE-Step 1.5: fixed limits by the bytes of the device."""

from __future__ import annotations

from dataclasses import dataclass

from acestage.planning import GIB


@dataclass(frozen=True, slots=True)
class Tier:
    """A row of the table.

    Attributes:
        name: for people, with the range of memory.
        language_models: those that may be used.
        max_duration_s: the longest song, in seconds, without a language model.
        max_batch_size: the most takes, without a language model.
        max_duration_with_lm_s: the longest song beside a language model.
        max_batch_size_with_lm: the most takes beside a language model.
    """

    name: str
    language_models: tuple[str, ...]
    max_duration_s: int
    max_batch_size: int
    max_duration_with_lm_s: int
    max_batch_size_with_lm: int


_UP_TO = (
    (4, Tier("tier 1 (up to 4 GB)", (), 180, 1, 180, 1)),
    (6, Tier("tier 2 (4 to 6 GB)", (), 360, 1, 360, 1)),
    (8, Tier("tier 3 (6 to 8 GB)", ("0.6B",), 360, 2, 240, 1)),
    (12, Tier("tier 4 (8 to 12 GB)", ("0.6B",), 360, 4, 240, 2)),
)
_BELOW = (
    # Cards of 16 GB report a little less.
    (15.5, Tier("tier 5 (12 to 16 GB)", ("0.6B", "1.7B"), 360, 4, 240, 2)),
    (24, Tier("tier 6 (16 to 24 GB)", ("0.6B", "1.7B", "4B"), 480, 8, 480, 4)),
)
_UNLIMITED = Tier("unlimited (24 GB and more)", ("0.6B", "1.7B", "4B"), 600, 8, 600, 8)


def tier_of(device_bytes: int) -> Tier:
    """The row for a device of `device_bytes`.

    The small rows include their upper bound ("up to 4 GB"), the large ones do not ("24 GB and more").
    """
    device_gb = device_bytes / GIB
    for most_gb, tier in _UP_TO:
        if device_gb <= most_gb:
            return tier
    for bound_gb, tier in _BELOW:
        if device_gb < bound_gb:
            return tier
    return _UNLIMITED
