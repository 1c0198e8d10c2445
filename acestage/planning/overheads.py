"""What a process on a device takes besides its weights and activations."""

from __future__ import annotations

from acestage.planning.stage_memory import MIB

CUDA_CONTEXT_BYTES = 300 * MIB
"""A CUDA context with torch's and the libraries' kernels: 100 to 500 MB are reported, by card and driver;
`make gpu-check` measures it."""

CPU_PROCESS_BYTES = 32 * MIB
"""What a forked worker has of its own on the CPU before it has weights: pages that it wrote to, stacks."""

RESERVE_BYTES = 96 * MIB
"""Margin: torch's CUDA allocator takes memory from the device in blocks of 2 MiB, or 20 MiB for tensors of 1
to 10 MiB, and hands out parts of them; free parts that are too small for the next tensor are lost."""


def context_bytes(cpu_thread_count: int | None) -> int:
    """Bytes of a process that has nothing on its device yet: the CPU, or a CUDA device (None)."""
    return CUDA_CONTEXT_BYTES if cpu_thread_count is None else CPU_PROCESS_BYTES
