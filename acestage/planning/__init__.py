"""What fits on a device: pure arithmetic on figures that were measured from the architecture. No torch."""

from acestage.planning.choices import (
    DEFAULT_TILE_FRAMES,
    EncodeMode,
    choose_dit,
    choose_encode,
    choose_tile,
    dit_ways,
    encode_tile_ways,
    encode_ways,
    tile_ways,
)
from acestage.planning.language_model import LanguageModelMemory
from acestage.planning.overheads import (
    CUDA_CONTEXT_BYTES,
    RESERVE_BYTES,
    context_bytes,
)
from acestage.planning.plan import (
    EXCLUSIVE_BYTES,
    MAX_BATCH_SIZE,
    MAX_DURATION_S,
    Plan,
    Wishes,
    make_plan,
)
from acestage.planning.stage_memory import (
    GIB,
    MIB,
    ActivationCurve,
    Quantization,
    StageMemory,
    as_quantization,
)

__all__ = [
    "CUDA_CONTEXT_BYTES",
    "DEFAULT_TILE_FRAMES",
    "EXCLUSIVE_BYTES",
    "GIB",
    "MAX_BATCH_SIZE",
    "MAX_DURATION_S",
    "MIB",
    "RESERVE_BYTES",
    "ActivationCurve",
    "EncodeMode",
    "LanguageModelMemory",
    "Plan",
    "Quantization",
    "StageMemory",
    "Wishes",
    "as_quantization",
    "choose_dit",
    "choose_encode",
    "choose_tile",
    "context_bytes",
    "dit_ways",
    "encode_tile_ways",
    "encode_ways",
    "make_plan",
    "tile_ways",
]
