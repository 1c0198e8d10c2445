"""The gRPC face of the text encoder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

import grpc.aio

from acestage import tensors
from acestage.checkpoints import ModelFacts
from acestage.checks import Checks
from acestage.protos.text_encoder.v1 import text_encoder_pb2 as pb
from acestage.protos.text_encoder.v1 import text_encoder_pb2_grpc
from acestage.settings import Settings
from acestage.tensors import WireTensor
from services.runtime.jobs.stage_runner import StageRunner
from services.runtime.rpc import tensor_requests
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.rpc.request_limits import MAX_FRAME_COUNT, check_prompt, check_quantization
from services.runtime.rpc.stage_events import relay
from services.runtime.workers.messages import Message
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.prompt import Prompt
from services.text_encoder.source_checks import check_reference, check_source, check_window, require_codes

DURATION_S = (1, 3600)
SOURCE, REFERENCE = "source_latents", "reference_latents"

EncodeContext = grpc.aio.ServicerContext[pb.EncodeRequest, pb.EncodeResponse]
TokenizeContext = grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse]


class TextEncoderServicer(text_encoder_pb2_grpc.TextEncoderServiceServicer):
    def __init__(self, runner: StageRunner, models: ModelCatalog) -> None:
        self._runner = runner
        self._models = models

    async def Encode(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.EncodeRequest], context: EncodeContext
    ) -> None:
        parameters, received = await tensor_requests.read(request_iterator, SOURCE, REFERENCE)
        model = self._models.resolve(parameters.model, "parameters.model")
        job = encode_request(parameters, received, model)
        await relay(self._runner, job, context, pb.EncodeResponse, _conditioning)

    async def Tokenize(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.TokenizeRequest], context: TokenizeContext
    ) -> None:
        parameters, received = await tensor_requests.read(request_iterator, SOURCE)
        model = self._models.resolve(parameters.model, "parameters.model")
        job = tokenize_request(received, model)
        await relay(self._runner, job, context, pb.TokenizeResponse, _codes)


def add_servicer(
    runner: StageRunner, models: ModelCatalog, settings: Settings, server: grpc.aio.Server
) -> None:
    servicer = TextEncoderServicer(runner, models)
    text_encoder_pb2_grpc.add_TextEncoderServiceServicer_to_server(servicer, server)


def encode_request(
    parameters: pb.EncodeParameters, received: Mapping[str, WireTensor], model: ModelFacts
) -> Message:
    """The worker's job.

    Raises:
        InvalidArgumentError: with every wrong field.
        FailedPreconditionError: it takes an audio tokenizer, and the model has none.
    """
    latents = {name: _latents(received, name, model) for name in (SOURCE, REFERENCE) if name in received}
    job = job_from_pb(parameters)
    checks = Checks()
    check_prompt(checks, parameters, "parameters.")
    checks.within(job.frame_count, "parameters.frame_count", 1, MAX_FRAME_COUNT)
    checks.within(parameters.duration_s, "parameters.duration_s", *DURATION_S)
    check_quantization(checks, parameters.quantization, "parameters.quantization")
    check_source(checks, job, latents[SOURCE].shape[1] if SOURCE in latents else None, model)
    check_window(checks, job)
    if REFERENCE in latents:
        check_reference(checks, latents[REFERENCE].shape[1], model)
    checks.done()
    if job.needs_codes:
        require_codes(model, "audio_codes" if job.audio_codes else "through_codes")
    fields = {**job.to_fields(), "model": model.name, "quantization": parameters.quantization}
    return Message("encode", fields, tuple(latents.values()))


def tokenize_request(received: Mapping[str, WireTensor], model: ModelFacts) -> Message:
    """The worker's job.

    Raises:
        InvalidArgumentError: the tensor is missing or wrong.
        FailedPreconditionError: the model has no audio tokenizer.
    """
    source = _latents(received, SOURCE, model)
    frame_count = source.shape[1]
    checks = Checks()
    checks.at_most(frame_count, "frames", f"tensor.{SOURCE}.shape", MAX_FRAME_COUNT)
    checks.done()
    require_codes(model, "Tokenize")
    # The codec is never quantized: how the other weights are held is left to the stage.
    fields = {"model": model.name, "frame_count": frame_count, "quantization": ""}
    return Message("tokenize", fields, (source,))


def job_from_pb(parameters: pb.EncodeParameters) -> EncodeJob:
    prompt = Prompt(
        caption=parameters.caption,
        lyrics=parameters.lyrics,
        language=parameters.language.strip() or "en",
        duration_s=parameters.duration_s,
        bpm=parameters.bpm if parameters.HasField("bpm") else None,
        key_scale=parameters.key_scale.strip(),
        time_signature=parameters.time_signature.strip(),
        instruction=parameters.instruction,
    )
    return EncodeJob(
        prompt=prompt,
        frame_count=parameters.frame_count,
        audio_codes=tuple(parameters.audio_codes),
        through_codes=parameters.through_codes,
        window_start_frame=parameters.window_start_frame,
        window_stop_frame=parameters.window_stop_frame,
        silence_window=parameters.silence_window,
        with_plain=parameters.with_plain,
    )


def _latents(received: Mapping[str, WireTensor], name: str, model: ModelFacts) -> WireTensor:
    return tensors.require(received, name, 1, None, model.latent_channel_count)


def _conditioning(message: Message) -> Iterator[pb.EncodeResponse]:
    for cut in message.fields.get("prompt_cuts", ()):
        yield pb.EncodeResponse(prompt_cut=pb.PromptCut(**cut))
    for tensor in message.tensors:
        for chunk in tensors.encode(tensor):
            yield pb.EncodeResponse(tensor=chunk)


def _codes(message: Message) -> Iterator[pb.TokenizeResponse]:
    yield pb.TokenizeResponse(codes=pb.AudioCodes(codes=message.fields["codes"]))
