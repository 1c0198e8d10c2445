"""The gRPC face of the DiT."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping

import grpc.aio

from acestage import tensors
from acestage.checkpoints import ModelFacts
from acestage.checks import Checks
from acestage.protos.dit.v1 import dit_pb2 as pb
from acestage.protos.dit.v1 import dit_pb2_grpc
from services.dit.parameters import DenoiseParameters
from services.runtime import tensor_requests
from services.runtime.messages import Message
from services.runtime.model_catalog import ModelCatalog
from services.runtime.request_limits import (
    MAX_FRAME_COUNT,
    MAX_ITEM_COUNT,
    MAX_TOKEN_COUNT,
    check_quantization,
)
from services.runtime.stage_events import relay
from services.runtime.stage_runner import StageRunner

MAX_STEPS = 1000
_TENSORS = ("encoder_hidden_states", "null_condition", "context_latents")

Context = grpc.aio.ServicerContext[pb.DenoiseRequest, pb.DenoiseResponse]


class DitServicer(dit_pb2_grpc.DitServiceServicer):
    def __init__(self, runner: StageRunner, models: ModelCatalog) -> None:
        self._runner = runner
        self._models = models

    async def Denoise(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.DenoiseRequest], context: Context
    ) -> None:
        parameters, received = await tensor_requests.read(request_iterator, *_TENSORS)
        model = self._models.resolve(parameters.model, "parameters.model")
        job = self._job(model, parameters_from_pb(parameters), parameters.quantization, received)
        await relay(self._runner, job, context, pb.DenoiseResponse, _results)

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
        checks.done()
        fields = {**dataclasses.asdict(parameters), "quantization": quantization, "model": model.name}
        return Message("denoise", fields, (states, null, context_latents))


def add_servicer(runner: StageRunner, models: ModelCatalog, server: grpc.aio.Server) -> None:
    dit_pb2_grpc.add_DitServiceServicer_to_server(DitServicer(runner, models), server)


def parameters_from_pb(parameters: pb.DenoiseParameters) -> DenoiseParameters:
    """Raises `InvalidArgumentError` with every wrong field."""
    checks = Checks()
    checks.within(len(parameters.seeds), "parameters.seeds", 1, MAX_ITEM_COUNT)
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
    checks.done()
    return DenoiseParameters(
        seeds=tuple(parameters.seeds),
        step_count=parameters.step_count,
        shift=parameters.shift,
        guidance_scale=parameters.guidance_scale,
        cfg_interval=(start, end),
        timesteps=timesteps,
    )


def _results(message: Message) -> Iterator[pb.DenoiseResponse]:
    if message.kind == "step":
        yield pb.DenoiseResponse(step=pb.StepCompleted(**message.fields))
    for tensor in message.tensors:
        for chunk in tensors.encode(tensor):
            yield pb.DenoiseResponse(tensor=chunk)
