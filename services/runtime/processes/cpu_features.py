"""What the CPU can do, as the kernel lists it. No torch."""

from __future__ import annotations

import functools
import platform
from hashlib import sha256
from pathlib import Path


@functools.cache
def cpu_features() -> str:
    """The names of its extensions, such as "avx512_vnni amx_bf16", or of the CPU where nobody lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = (line for line in lines if line.startswith(("flags", "Features")))
    return next(found, platform.processor()).partition(":")[2].strip() or platform.processor()


def has_feature(*names: str) -> bool:
    """Whether the CPU has one of these extensions."""
    return not set(names).isdisjoint(cpu_features().split())


def cpu_digest() -> str:
    """The same for CPUs that can do the same."""
    return sha256(f"{platform.machine()} {cpu_features()}".encode()).hexdigest()[:16]
