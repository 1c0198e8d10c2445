"""What the text encoder needs on its device, measured from its architecture."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from acestage.planning import RESERVE_BYTES, ActivationCurve, Quantization, StageMemory, context_bytes
from services.runtime.memory_probe import Stack, fake_tensors, peak_bytes, placed_copy
from services.runtime.placement import placed_bytes
from services.runtime.request_limits import MAX_FRAME_COUNT
from services.text_encoder.engine import TextEncoderEngine
from services.text_encoder.prompt import Prompt

if TYPE_CHECKING:
    from services.text_encoder.worker import TextEncoderWorker

FRAME_COUNTS = (250, MAX_FRAME_COUNT)
"""Where the curve is measured; the context latents alone depend on the song's length."""


class LongestPrompt:
    """In the place of the tokenizer: as many tokens as it lets through, whatever the text."""

    def __call__(self, texts: list[str], *, max_length: int, **settings: Any) -> SimpleNamespace:
        ids = torch.ones(len(texts), max_length, dtype=torch.long)
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))


def measure(worker: TextEncoderWorker, dtype: torch.dtype, cpu_thread_count: int | None) -> StageMemory:
    """Runs the encoders on fake tensors, for the longest prompt. The one mode is "encode"."""
    engine = copy.copy(worker.engine)
    engine.tokenizer = LongestPrompt()
    tokenless = type(worker)(engine)
    weights: dict[Quantization, int] = {}
    activations: dict[tuple[str, Quantization], ActivationCurve] = {}
    quantizations: tuple[Quantization, ...] = ("none", "int8")
    for quantization in quantizations:
        weights[quantization] = placed_bytes(worker.modules(), dtype, quantization)
        with fake_tensors():
            fake = placed_copy(tokenless, dtype, quantization, _stacks(engine)).engine
            # It reads the values of a mask, which fake tensors do not have, and takes a few kB.
            fake.condition_encoder.timbre_encoder.unpack_timbre_embeddings = _one_item
            points = tuple((frames, _peak_bytes(fake, frames, cpu_thread_count)) for frames in FRAME_COUNTS)
            activations["encode", quantization] = ActivationCurve(points)
    return StageMemory(
        context_bytes=context_bytes(cpu_thread_count),
        reserve_bytes=RESERVE_BYTES,
        weights_bytes=weights,
        activations=activations,
    )


def _stacks(engine: TextEncoderEngine) -> list[Stack]:
    lyric, timbre = engine.condition_encoder.lyric_encoder, engine.condition_encoder.timbre_encoder
    return [
        Stack(lyric, lyric._layer_types),
        Stack(timbre, timbre._layer_types[: len(timbre.layers)]),
        Stack(engine.text_encoder, engine.text_encoder.config.layer_types),
    ]


def _one_item(embeddings: torch.Tensor, order_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return embeddings.unsqueeze(1), torch.ones_like(order_mask).unsqueeze(1)


def _peak_bytes(engine: TextEncoderEngine, frame_count: int, cpu_thread_count: int | None) -> int:
    return peak_bytes(
        lambda: engine.encode(Prompt(caption="music"), frame_count), cpu_thread_count=cpu_thread_count
    )
