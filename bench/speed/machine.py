"""Where and when something was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "torchao")

FLAGS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
"""Of a processor: those that decide which kernels torch takes."""


def describe() -> dict[str, Any]:
    """The machine and the versions of what computes on it, as JSON values."""
    facts = cpu_facts(Path("/proc/cpuinfo").read_text())
    flags = set(facts.get("flags", "").split())
    return {
        "cpu": facts.get("model name", "unknown"),
        "cpu_count": os.cpu_count(),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def cpu_facts(cpuinfo: str) -> dict[str, str]:
    """What `/proc/cpuinfo` says of the first processor."""
    first, _, _ = cpuinfo.partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def now() -> str:
    """Date and time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]
