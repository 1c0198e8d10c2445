"""The gRPC face of the DiT."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import cast

import grpc.aio

from acestage import tensors
from acestage.adapters import AdapterFolder
from acestage.checkpoints import ModelFacts
from acestage.checks import Checks
from acestage.errors import InvalidArgumentError
from acestage.planning import MAX_BATCH_SIZE
from acestage.protos.dit.v1 import dit_pb2 as pb
from acestage.protos.dit.v1 import dit_pb2_grpc
from acestage.settings import Settings
from services.dit.adapter_requests import resolve_adapters
from services.dit.parameters import DenoiseParameters
from services.runtime.jobs.stage_runner import StageRunner
from services.runtime.rpc import tensor_requests
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.rpc.request_limits import (
    MAX_FRAME_COUNT,
    MAX_TOKEN_COUNT,
    InferMethod,
    check_infer_method,
    check_quantization,
)
from services.runtime.rpc.stage_events import relay
from services.runtime.workers.messages import Message

MAX_STEPS = 200
"""As a song may have: on a CPU the embeddings of so many timesteps take 6 MB, which no plan counts."""

_TENSORS = ("encoder_hidden_states", "null_condition", "context_latents")
_PLAIN, _SOURCE = "plain_hidden_states", "source_latents"

Context = grpc.aio.ServicerContext[pb.DenoiseRequest, pb.DenoiseResponse]


class DitServicer(dit_pb2_grpc.DitServiceServicer):
    def __init__(self, runner: StageRunner, models: ModelCatalog, adapters: AdapterFolder) -> None:
        self._runner = runner
        self._models = models
        self._adapters = adapters

    async def Denoise(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.DenoiseRequest], context: Context
    ) -> None:
        parameters, received = await tensor_requests.read(request_iterator, *_TENSORS, _PLAIN, _SOURCE)
        model = self._models.resolve(parameters.model, "parameters.model")
        wanted = parameters_from_pb(parameters)
        if parameters.adapters:
            uses = await asyncio.to_thread(
                resolve_adapters, self._adapters, parameters.adapters, "parameters.adapters"
            )
            wanted = dataclasses.replace(wanted, adapters=uses)
        job = self._job(model, wanted, parameters.quantization, received)
        await relay(self._runner, job, context, pb.DenoiseResponse, _results)

    async def CheckAdapters(
        self,
        request: pb.CheckAdaptersRequest,
        context: grpc.aio.ServicerContext[pb.CheckAdaptersRequest, pb.CheckAdaptersResponse],
    ) -> pb.CheckAdaptersResponse:
        await asyncio.to_thread(resolve_adapters, self._adapters, request.adapters, "adapters")
        return pb.CheckAdaptersResponse()

    def _job(
        self,
        model: ModelFacts,
        parameters: DenoiseParameters,
        quantization: str,
        received: Mapping[str, tensors.WireTensor],
    ) -> Message:
        channels = 2 * model.latent_channel_count
        states = tensors.require(received, "encoder_hidden_states", 1, None, model.condition_width)
        null = tensors.require(received, "null_condition", 1, 1, model.condition_width)
        context_latents = tensors.require(received, "context_latents", 1, None, channels)
        checks = Checks()
        checks.at_most(states.shape[1], "tokens", "tensor.encoder_hidden_states.shape", MAX_TOKEN_COUNT)
        checks.at_most(context_latents.shape[1], "frames", "tensor.context_latents.shape", MAX_FRAME_COUNT)
        parts = [states, null, context_latents]
        if _is_needed(
            received, _PLAIN, parameters.audio_cover_strength < 1.0, "audio_cover_strength below 1"
        ):
            plain = tensors.require(received, _PLAIN, 1, None, model.condition_width)
            checks.at_most(plain.shape[1], "tokens", f"tensor.{_PLAIN}.shape", MAX_TOKEN_COUNT)
            parts.append(plain)
        if _is_needed(
            received, _SOURCE, parameters.cover_noise_strength > 0.0, "cover_noise_strength above 0"
        ):
            frames = context_latents.shape[1]
            parts.append(tensors.require(received, _SOURCE, 1, frames, model.latent_channel_count))
        checks.done()
        fields = {**dataclasses.asdict(parameters), "quantization": quantization, "model": model.name}
        return Message("denoise", fields, tuple(parts))


def _is_needed(received: Mapping[str, tensors.WireTensor], name: str, is_needed: bool, when: str) -> bool:
    """`is_needed`, after checking that the tensor called `name` did not come in vain."""
    if name in received and not is_needed:
        raise InvalidArgumentError.at(f"tensor.{name}", f"was sent; accepted: with parameters.{when}")
    if is_needed and name not in received:
        raise InvalidArgumentError.at(f"tensor.{name}", f"is missing; parameters.{when} needs it")
    return is_needed


def add_servicer(
    runner: StageRunner, models: ModelCatalog, settings: Settings, server: grpc.aio.Server
) -> None:
    adapters = AdapterFolder(settings.adapters_dir)
    dit_pb2_grpc.add_DitServiceServicer_to_server(DitServicer(runner, models, adapters), server)


def parameters_from_pb(parameters: pb.DenoiseParameters) -> DenoiseParameters:
    """All but the adapters, which lie in files.

    Raises:
        InvalidArgumentError: with every wrong field.
    """
    checks = Checks()
    checks.within(len(parameters.seeds), "parameters.seeds", 1, MAX_BATCH_SIZE)
    timesteps = tuple(parameters.timesteps)
    checks.timesteps(timesteps, "parameters.timesteps", MAX_STEPS)
    if not timesteps:
        checks.within(parameters.step_count, "parameters.step_count", 1, MAX_STEPS)
        checks.within(parameters.shift, "parameters.shift", 1e-6, 100)
    start, end = parameters.cfg_interval_start, parameters.cfg_interval_end
    checks.within(parameters.guidance_scale, "parameters.guidance_scale", 0, 100)
    checks.within(start, "parameters.cfg_interval_start", 0, 1)
    checks.within(end, "parameters.cfg_interval_end", max(0.0, min(start, 1.0)), 1)
    check_quantization(checks, parameters.quantization, "parameters.quantization")
    has_strength = parameters.HasField("audio_cover_strength")
    strength = parameters.audio_cover_strength if has_strength else 1.0
    checks.within(strength, "parameters.audio_cover_strength", 0, 1)
    checks.within(parameters.cover_noise_strength, "parameters.cover_noise_strength", 0, 1)
    check_infer_method(checks, parameters.infer_method, "parameters.infer_method")
    checks.done()
    return DenoiseParameters(
        seeds=tuple(parameters.seeds),
        step_count=parameters.step_count,
        shift=parameters.shift,
        guidance_scale=parameters.guidance_scale,
        cfg_interval=(start, end),
        timesteps=timesteps,
        audio_cover_strength=strength,
        cover_noise_strength=parameters.cover_noise_strength,
        infer_method=cast(InferMethod, parameters.infer_method or "ode"),
    )


def _results(message: Message) -> Iterator[pb.DenoiseResponse]:
    if message.kind == "step":
        yield pb.DenoiseResponse(step=pb.StepCompleted(**message.fields))
    for tensor in message.tensors:
        for chunk in tensors.encode(tensor):
            yield pb.DenoiseResponse(tensor=chunk)
