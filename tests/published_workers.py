"""Stages in the published sizes with random weights, made in memory, and the work that a plan is for."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from acestage.adapters import AdapterFolder
from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import (
    COMPONENTS_OF_STAGES,
    CONDITION_ENCODER,
    TEXT_ENCODER,
    TRANSFORMER,
)
from acestage.checkpoints.likeness import architecture_of
from acestage.checkpoints.published import published_checkpoint
from acestage.planning import Quantization, StageMemory
from acestage.protos.dit.v1.dit_pb2 import Adapter
from services.dit.adapter_requests import resolve_adapters
from services.dit.engine import Conditioning
from services.dit.parameters import AdapterUse, DenoiseParameters
from services.runtime.memory.measurements import Measurements
from services.runtime.rpc.request_limits import MAX_TOKEN_COUNT
from services.runtime.stage_worker import StageWorker
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.prompt import Prompt
from services.vae.engine import DecodeStart

# Keys that say how many layers a component has.
_LAYER_COUNTS = (
    "num_hidden_layers",
    "num_lyric_encoder_hidden_layers",
    "num_timbre_encoder_hidden_layers",
    "max_window_layers",
)


def architecture(name: str, layer_count: int | None = None) -> Checkpoint:
    """The published model `name`, with `layer_count` layers in each stack (None: as published)."""
    checkpoint = published_checkpoint(name)
    if layer_count is None:
        return checkpoint
    components = []
    for component in checkpoint.components:
        values = dict(component.config.values)
        if component.name in (TRANSFORMER, CONDITION_ENCODER, TEXT_ENCODER):
            values |= {key: layer_count for key in _LAYER_COUNTS if key in values}
            if "layer_types" in values:
                layer_types: Any = values["layer_types"]
                values["layer_types"] = layer_types[:layer_count]
        components.append(dataclasses.replace(component, config=component.config.replaced(values)))
    return dataclasses.replace(checkpoint, components=tuple(components))


def without_weights(stage: str, checkpoint: Checkpoint) -> Any:
    """The worker of `stage` on the meta device."""
    return importlib.import_module(f"services.{stage}.worker").without_weights(checkpoint)


def measured(
    stage: str, checkpoint: Checkpoint, dtype: torch.dtype, cpu_thread_count: int | None
) -> StageMemory:
    """What `stage` needs; measured once by all tests, and all services that they start."""
    kept = Measurements(Path(os.environ["ACESTAGE_CACHE_DIR"]))
    worker: StageWorker = without_weights(stage, checkpoint)
    architecture = architecture_of(checkpoint, COMPONENTS_OF_STAGES[stage])
    digest = kept.digest(stage, architecture, str(dtype).removeprefix("torch."), cpu_thread_count)
    memory = kept.find(digest)
    if memory is None:  # `recall_all` would fork, and a test's process may have threads
        memory = worker.memory(dtype, cpu_thread_count)
        kept.keep(digest, memory)
    return memory


def with_random_weights(
    stage: str,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    *,
    device: str | None = "cpu",
) -> Any:
    """The worker of `stage`, placed on `device` (None: not yet placed).

    What a job borrows is in float16, so that it is copied.
    """
    worker: StageWorker = without_weights(stage, checkpoint)
    for module in worker.borrowed_modules():
        _randomize(module, torch.float16)
    for module in worker.modules():
        _randomize(module, dtype)
    if device is not None:
        worker.place(torch.device(device), dtype, quantization)
    left = chain.from_iterable(chain(m.parameters(), m.buffers()) for m in worker.modules())
    assert not any(tensor.is_meta for tensor in left)
    return worker


def _randomize(module: torch.nn.Module, dtype: torch.dtype) -> None:
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    values = _random(tensor.shape, dtype)
                    if isinstance(tensor, torch.nn.Parameter):  # torch chooses kernels by this flag
                        values = torch.nn.Parameter(values, tensor.requires_grad)
                    tensors[name] = values  # type: ignore[assignment]


def _random(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """The same random numbers over and over: to draw hundreds of millions takes seconds."""
    count = shape.numel()
    drawn = torch.empty(min(count, 1 << 16)).normal_(0, 0.02).to(dtype)
    return drawn.repeat(math.ceil(count / len(drawn)))[:count].reshape(shape)


def adapter_for(worker: Any, folder: Path, rank: int) -> AdapterUse:
    """An adapter for every linear layer in the stack of a DiT's transformer, written into `folder`."""
    stored = {}
    for module, layer in worker.engine.transformer.layers.named_modules():
        if isinstance(layer, torch.nn.Linear):
            key = f"transformer.layers.{module.replace('.layer.', '.')}"
            stored[f"{key}.lora_A.weight"] = torch.zeros(rank, layer.in_features)
            stored[f"{key}.lora_B.weight"] = torch.zeros(layer.out_features, rank)
    save_file(stored, folder / "x.safetensors")
    (use,) = resolve_adapters(AdapterFolder(folder), [Adapter(name="x")], "adapters")
    return use


def encode(worker: Any, frame_count: int, *, with_codes: bool = False) -> Callable[[], object]:
    """The longest prompt and its plain form, for a song of `frame_count`; the source as codes or silence."""
    job = EncodeJob(Prompt(caption="music"), frame_count, through_codes=with_codes, with_plain=True)
    channel_count = worker.engine.condition_encoder.silence_latent.shape[-1]
    source = torch.zeros(1, frame_count, channel_count) if with_codes else None
    return lambda: worker.engine.encode(job, source)


def denoise(
    worker: Any,
    frame_count: int,
    dtype: torch.dtype,
    *,
    split: bool = False,
    items: int = 1,
) -> Callable[[], object]:
    """Steps under the longest conditioning, from what arrives over the wire on.

    With guidance two of them: there is momentum from the first one on.
    """
    engine = worker.engine
    width = engine.transformer.condition_embedder.in_features

    def work() -> None:
        conditioning = Conditioning(
            torch.zeros(1, MAX_TOKEN_COUNT, width, dtype=dtype),
            torch.zeros(1, 1, width, dtype=dtype),
            torch.zeros(1, frame_count, 2 * engine.channel_count, dtype=dtype),
        )
        parameters = DenoiseParameters(
            seeds=tuple(range(items)),
            step_count=1 if engine.is_turbo else 2,
            split_guidance=split,
        )
        for _ in engine.denoise(conditioning, parameters):
            pass

    return work


def decode(worker: Any, tile_frame_count: int, tile_count: int = 3) -> Callable[[], object]:
    """So many tiles of full size, behind a tile that is there already: a song begins with smaller ones."""
    frame_count = (tile_count + 1) * tile_frame_count
    latents = torch.zeros(1, frame_count, worker.engine.latent_channel_count)

    def work() -> None:
        for _ in worker.engine.decode(latents, tile_frame_count, DecodeStart(0, tile_frame_count)):
            pass

    return work


def encode_audio(worker: Any, tile_frame_count: int, tile_count: int = 3) -> Callable[[], object]:
    """Audio of so many tiles, from borrowing the encoder on."""
    engine = worker.engine
    sample_count = tile_count * tile_frame_count * engine.hop_sample_count
    audio = torch.zeros(1, sample_count, engine.audio_channel_count)

    def work() -> None:
        for _ in engine.encode(audio, tile_frame_count):
            pass

    return work


def work_of(worker: Any, mode: str, frame_count: int, dtype: torch.dtype) -> Callable[[], object]:
    """What a plan for `mode` and `frame_count` is for; of a tile, its frames without the halo."""
    match mode:
        case "encode":
            return encode(worker, frame_count)
        case "codes":
            return encode(worker, frame_count, with_codes=True)
        case "tile":
            return decode(worker, frame_count)
        case "encode_tile":
            return encode_audio(worker, frame_count)
        case "single" | "guided":
            return denoise(worker, frame_count, dtype, split=mode == "single")
        case _:
            raise ValueError(f"{mode!r}: no mode of a plan")
