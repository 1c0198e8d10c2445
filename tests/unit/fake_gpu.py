"""Runs every stage on fake tensors of a device that is not the CPU: `python -m tests.unit.fake_gpu`.

Two devices that meet in one operation are an error then, as they are on a CUDA device. A process of its own,
since torch takes one such device for good.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from acestage.planning import Quantization
from services.dit import engine as dit
from services.dit.parameters import DenoiseParameters
from services.dit.time_embeddings import EMBEDDERS
from services.runtime.memory.memory_probe import fake_tensors, placed_copy
from services.runtime.weights import placement
from services.text_encoder import audio_codec
from services.text_encoder import engine as text_encoder
from services.text_encoder.attention import repeat_keys
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.memory import LongestPrompt, _one_item
from services.text_encoder.prompt import Prompt
from services.vae import engine as vae
from tests.published_workers import architecture, without_weights

_setup_privateuseone_for_python_backend("gpu")
GPU = torch.device("gpu:0")
LEFT_OUT = (*EMBEDDERS, *text_encoder.LEFT_OUT)
FRAME_COUNT = 800
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8")


def main() -> None:
    """Prints what ran."""
    placement._move = _move
    for module in (dit, text_encoder, audio_codec, vae):
        vars(module)["check_finite"] = lambda *values: None  # fake tensors have none
    checkpoint = architecture("base", layer_count=2)  # which takes guidance
    for stage, dtype in product(STAGES, DTYPES):
        worker = without_weights(stage, checkpoint)
        if stage == "text_encoder":
            worker.engine.tokenizer = LongestPrompt()
        for quantization in QUANTIZATIONS:
            with fake_tensors():
                placed = placed_copy(worker, dtype, quantization, place=_place)
                assert {part.device for part in _tensors(placed, left_out=False)} == {GPU}
                assert {part.device for part in _tensors(placed, left_out=True)} <= {torch.device("cpu")}
                STAGES[stage](placed.engine, dtype)
            print(stage, dtype, quantization)


def _place(worker: Any, cpu: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
    worker.place(GPU, dtype, quantization)


def _move(part: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """As the real one, which sets `data`: a fake tensor keeps its device then."""
    for name, parameter in part.named_parameters(recurse=False):
        moved = torch.nn.Parameter(placement.moved(parameter.data, device, dtype), parameter.requires_grad)
        part._parameters[name] = moved
    for name, buffer in part.named_buffers(recurse=False):
        stored = placement._buffer_dtype(part, name, buffer, dtype)
        setattr(part, name, placement.moved(buffer, device, stored))


def _tensors(worker: Any, *, left_out: bool) -> list[torch.Tensor]:
    return [
        tensor
        for module in worker.modules()
        for name, part in module.named_modules()
        if (name.split(".")[0] in LEFT_OUT) is left_out
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False))
    ]


def encode(engine: Any, dtype: torch.dtype) -> None:
    repeat_keys(engine)  # as on a CUDA device
    engine.condition_encoder.timbre_encoder.unpack_timbre_embeddings = _one_item
    source = torch.zeros(1, FRAME_COUNT, engine.condition_encoder.silence_latent.shape[-1])
    for through_codes, given in ((False, None), (False, source), (True, source)):
        job = EncodeJob(Prompt("music"), FRAME_COUNT, through_codes=through_codes, with_plain=True)
        encoded = engine.encode(job, given, given)
        for tensor in (encoded.encoder_hidden_states, encoded.context_latents, encoded.plain_hidden_states):
            assert tensor.device == GPU


def denoise(engine: Any, dtype: torch.dtype) -> None:
    width = engine.transformer.condition_embedder.in_features
    conditioning = dit.Conditioning(
        torch.zeros(1, 60, width),
        torch.zeros(1, 1, width),
        torch.zeros(1, FRAME_COUNT, 2 * engine.channel_count),
    ).to(GPU, dtype)
    latents = torch.zeros(1, FRAME_COUNT, engine.channel_count, dtype=dtype, device=GPU)
    for split in (False, True):
        parameters = DenoiseParameters(seeds=(0,), split_guidance=split)
        prompts = engine.prepare(conditioning, parameters, [0.5])
        momentum = MomentumBuffer(dit.APG_MOMENTUM)
        velocity = engine.step_velocity(latents, 0.5, prompts, parameters, momentum)
        assert (velocity.device, velocity.shape) == (GPU, latents.shape)


def decode_and_encode(engine: Any, dtype: torch.dtype) -> None:
    tiles = list(engine.decode(torch.zeros(1, 40, engine.latent_channel_count), 16))
    assert all(tile.audio.device.type == "cpu" for tile in tiles)
    audio = torch.zeros(1, 40 * engine.hop_sample_count, engine.audio_channel_count)
    assert all(tile.latents.device.type == "cpu" for tile in engine.encode(audio, 16))


STAGES: dict[str, Callable[[Any, torch.dtype], None]] = {
    "text_encoder": encode,
    "dit": denoise,
    "vae": decode_and_encode,
}


if __name__ == "__main__":
    main()
