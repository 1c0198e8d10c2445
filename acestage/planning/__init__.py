"""What fits on a device: pure arithmetic on figures that were measured from the architecture. No torch."""

from acestage.planning.stage_memory import GIB, MIB, ActivationCurve, Quantization, StageMemory

__all__ = ["GIB", "MIB", "ActivationCurve", "Quantization", "StageMemory"]
