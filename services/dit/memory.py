"""What the DiT needs on its device, measured from its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

from acestage.planning import RESERVE_BYTES, ActivationCurve, Quantization, StageMemory, context_bytes
from services.dit.engine import APG_MOMENTUM, Conditioning, DitEngine
from services.dit.parameters import DenoiseParameters
from services.dit.time_embeddings import EMBEDDERS
from services.dit.tokens import CHUNK_TOKENS, PATCH_FRAMES
from services.runtime.memory.memory_probe import Stack, count_as_copied, fake_tensors, peak_bytes, placed_copy
from services.runtime.rpc.request_limits import MAX_FRAME_COUNT, MAX_TOKEN_COUNT
from services.runtime.weights.placement import placed_bytes

if TYPE_CHECKING:
    from services.dit.worker import DitWorker

_CHUNKED_FRAMES = PATCH_FRAMES * (CHUNK_TOKENS + 1)
FRAME_COUNTS = {
    "single": (250, 1250, _CHUNKED_FRAMES - 2, _CHUNKED_FRAMES, MAX_FRAME_COUNT),
    # Chunks are of the tokens of both halves.
    "guided": (250, _CHUNKED_FRAMES // 2 + 1, _CHUNKED_FRAMES, MAX_FRAME_COUNT),
}
"""Where the curves are measured. Between the points a line is never below the peaks and at most 8 % above:
the embedders of timesteps outweigh a step of short songs, and from the first chunk of tokens on there is a
buffer for the results of all."""

_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8")


def measure(worker: DitWorker, dtype: torch.dtype, cpu_thread_count: int | None) -> StageMemory:
    """Runs the engine's passes on fake tensors, for the longest prompt.

    Modes are "single" (one pass of the transformer at a time; with guidance its halves take turns), "guided"
    (both halves at once; only of models that take guidance), "item": what each item of a batch after the
    first adds, and "prompt": what is kept of so many tokens of a prompt, where it is.
    """
    activations: dict[tuple[str, Quantization], ActivationCurve] = {}
    for mode in ("single",) if worker.engine.is_turbo else ("single", "guided"):
        plain = _points(worker, mode, dtype, "none", FRAME_COUNTS[mode], cpu_thread_count)
        int8 = _points(worker, mode, dtype, "int8", FRAME_COUNTS[mode][:-1], cpu_thread_count)
        # What INT8 adds is for one chunk of tokens at a time. More frames have no more of it, and a pass over
        # all of them is what takes longest here.
        last_frames, last_bytes = plain[-1]
        int8.append((last_frames, last_bytes + int8[-1][1] - plain[-2][1]))
        activations[mode, "none"] = ActivationCurve(tuple(plain))
        activations[mode, "int8"] = ActivationCurve(tuple(int8))
    for quantization in _QUANTIZATIONS:
        activations["item", quantization] = _item_curve(worker.engine, dtype)
        activations["prompt", quantization] = _prompt_curve(worker.engine, dtype)
    return StageMemory(
        context_bytes=context_bytes(cpu_thread_count),
        reserve_bytes=RESERVE_BYTES,
        weights_bytes={
            key: placed_bytes(worker.modules(), dtype, key, left_out=EMBEDDERS) for key in _QUANTIZATIONS
        },
        activations=activations,
    )


def _points(
    worker: DitWorker,
    mode: str,
    dtype: torch.dtype,
    quantization: Quantization,
    frame_counts: Sequence[int],
    cpu_thread_count: int | None,
) -> list[tuple[int, int]]:
    transformer = worker.engine.transformer
    with fake_tensors():
        stack = Stack(transformer, transformer.layer_types)
        planned = torch.device("cuda" if cpu_thread_count is None else "cpu")
        engine = placed_copy(
            worker, dtype, quantization, [stack], lambda copy, *how: copy.engine.place(*how, planned)
        ).engine
        count_as_copied(engine.transformer.get_submodule(name) for name in EMBEDDERS)
        return [(frames, _peak_bytes(engine, mode, frames, cpu_thread_count)) for frames in frame_counts]


def _peak_bytes(engine: DitEngine, mode: str, frame_count: int, cpu_thread_count: int | None) -> int:
    dtype = engine.transformer.dtype
    condition_width = engine.transformer.condition_embedder.in_features

    def step() -> None:
        latents = torch.zeros(1, frame_count, engine.channel_count, dtype=dtype)
        conditioning = Conditioning(
            encoder_hidden_states=torch.zeros(1, MAX_TOKEN_COUNT, condition_width, dtype=dtype),
            null_condition=torch.zeros(1, 1, condition_width, dtype=dtype),
            context_latents=torch.zeros(1, frame_count, 2 * engine.channel_count, dtype=dtype),
        )
        parameters = DenoiseParameters(seeds=(0,), split_guidance=mode == "single")
        momentum = MomentumBuffer(APG_MOMENTUM)
        momentum.running_average = torch.zeros_like(latents)  # as the step before leaves it
        prompts = engine.prepare(conditioning, parameters, [0.5])
        engine.step_velocity(latents, 0.5, prompts, parameters, momentum)

    return peak_bytes(step, cpu_thread_count=cpu_thread_count)


def _item_curve(engine: DitEngine, dtype: torch.dtype) -> ActivationCurve:
    """Items take turns; at the peak of one pass there are latents and velocities of the others.

    With guidance there is the momentum of each as well. What the scheduler makes of all of them in float32
    comes when a pass is over, and is less than its peak at the published widths.
    """
    kept_count = 2 if engine.is_turbo else 3
    frame_bytes = engine.channel_count * kept_count * dtype.itemsize
    return ActivationCurve(tuple((frames, frames * frame_bytes) for frames in (1, MAX_FRAME_COUNT)))


def _prompt_curve(engine: DitEngine, dtype: torch.dtype) -> ActivationCurve:
    token_bytes = engine.transformer_pass.prompt_token_bytes(dtype)
    return ActivationCurve(tuple((tokens, tokens * token_bytes) for tokens in (1, MAX_TOKEN_COUNT)))
