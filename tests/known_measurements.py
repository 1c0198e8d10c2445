"""A cache of its own for a test, but for what other tests have measured."""

from __future__ import annotations

import os
from pathlib import Path


def with_known_measurements(cache_dir: Path) -> None:
    """Makes `cache_dir`, without kernels or weights, but with what other tests have measured."""
    known = Path(os.environ["ACESTAGE_CACHE_DIR"]) / "measurements"
    known.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache_dir.mkdir(mode=0o700)
    (cache_dir / "measurements").symlink_to(known)
