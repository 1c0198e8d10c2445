"""The frame around answers that upstream's clients expect."""

from __future__ import annotations

import time
from typing import Any


def envelope(data: Any) -> dict[str, Any]:
    """`data` in the frame; errors are bare `{"detail": …}` instead."""
    return {"data": data, "code": 200, "error": None, "timestamp": int(time.time() * 1000), "extra": None}
