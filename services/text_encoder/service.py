"""The gRPC face of the text encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator

import grpc.aio

from acestage import tensors
from acestage.checkpoints import ModelFacts
from acestage.checks import Checks
from acestage.protos.text_encoder.v1 import text_encoder_pb2 as pb
from acestage.protos.text_encoder.v1 import text_encoder_pb2_grpc
from services.runtime import tensor_requests
from services.runtime.messages import Message
from services.runtime.model_catalog import ModelCatalog
from services.runtime.request_limits import MAX_FRAME_COUNT, check_prompt, check_quantization
from services.runtime.stage_events import relay
from services.runtime.stage_runner import StageRunner
from services.text_encoder.prompt import Prompt

DURATION_S = (1, 3600)

Context = grpc.aio.ServicerContext[pb.EncodeRequest, pb.EncodeResponse]


class TextEncoderServicer(text_encoder_pb2_grpc.TextEncoderServiceServicer):
    def __init__(self, runner: StageRunner, models: ModelCatalog) -> None:
        self._runner = runner
        self._models = models

    async def Encode(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.EncodeRequest], context: Context
    ) -> None:
        parameters, _ = await tensor_requests.read(request_iterator)
        model = self._models.resolve(parameters.model, "model")
        job = job_from_pb(parameters, model)
        await relay(self._runner, job, context, pb.EncodeResponse, _results)


def add_servicer(runner: StageRunner, models: ModelCatalog, server: grpc.aio.Server) -> None:
    servicer = TextEncoderServicer(runner, models)
    text_encoder_pb2_grpc.add_TextEncoderServiceServicer_to_server(servicer, server)


def job_from_pb(request: pb.EncodeParameters, model: ModelFacts) -> Message:
    """The worker's job; raises `InvalidArgumentError` with every wrong field."""
    checks = Checks()
    check_prompt(checks, request)
    checks.within(request.frame_count, "frame_count", 1, MAX_FRAME_COUNT)
    checks.within(request.duration_s, "duration_s", *DURATION_S)
    check_quantization(checks, request.quantization, "quantization")
    checks.done()
    prompt = Prompt(
        caption=request.caption,
        lyrics=request.lyrics,
        language=request.language.strip() or "en",
        duration_s=request.duration_s,
        bpm=request.bpm if request.HasField("bpm") else None,
        key_scale=request.key_scale.strip(),
        time_signature=request.time_signature.strip(),
        instruction=request.instruction,
    )
    fields = {
        "model": model.name,
        "prompt": dataclasses.asdict(prompt),
        "frame_count": request.frame_count,
        "quantization": request.quantization,
    }
    return Message("encode", fields)


def _results(message: Message) -> Iterator[pb.EncodeResponse]:
    for tensor in message.tensors:
        for chunk in tensors.encode(tensor):
            yield pb.EncodeResponse(tensor=chunk)
