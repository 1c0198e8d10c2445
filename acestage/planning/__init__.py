"""What fits on a device: pure arithmetic on figures that were measured from the architecture. No torch."""

from acestage.planning.overheads import (
    CPU_PROCESS_BYTES,
    CUDA_CONTEXT_BYTES,
    RESERVE_BYTES,
    context_bytes,
)
from acestage.planning.stage_memory import GIB, MIB, ActivationCurve, Quantization, StageMemory

__all__ = [
    "CPU_PROCESS_BYTES",
    "CUDA_CONTEXT_BYTES",
    "GIB",
    "MIB",
    "RESERVE_BYTES",
    "ActivationCurve",
    "Quantization",
    "StageMemory",
    "context_bytes",
]
