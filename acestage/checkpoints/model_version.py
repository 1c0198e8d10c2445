"""What the `model_version` of a model says."""

from __future__ import annotations

import re

# `turbo`, `base` and `sft`, their XL forms, and their descendants such as `turbo_shift3`.
_VERSION = re.compile(r"(?:xl[_-])?(?P<family>turbo|base|sft)(?:[_-].*)?", re.IGNORECASE)


def family_of(version: object) -> str | None:
    """ "turbo", "base" or "sft"; None where `version` is none of the versions of ACE-Step 1.5."""
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    return match and match["family"].lower()


def is_turbo(flag: bool, version: object) -> bool:
    """Whether a model runs without guidance: its `is_turbo` is true, or its version is of that family."""
    return flag or family_of(version) == "turbo"
