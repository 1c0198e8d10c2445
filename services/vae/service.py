"""The gRPC face of the VAE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial

import grpc.aio

from acestage import tensors
from acestage.checkpoints import ModelFacts
from acestage.checks import Checks
from acestage.planning import MAX_BATCH_SIZE
from acestage.protos.vae.v1 import vae_pb2 as pb
from acestage.protos.vae.v1 import vae_pb2_grpc
from acestage.settings import Settings
from services.runtime.jobs.stage_runner import StageRunner
from services.runtime.processes.finishing import end
from services.runtime.rpc import tensor_requests
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.rpc.request_limits import MAX_FRAME_COUNT
from services.runtime.rpc.stage_events import relay
from services.runtime.workers.messages import Message
from services.vae.audio_checks import require_audio, require_usable
from services.vae.latent_pieces import LatentPieces
from services.vae.tiles import FIRST_TILE_FRAMES

MAX_AUDIO_BYTES = 256 << 20
"""The most bytes of audio to encode. The largest, ten minutes, are 230.4 MB: 28,800,000 samples x 2 channels
x 4 bytes."""

DecodeContext = grpc.aio.ServicerContext[pb.DecodeRequest, pb.DecodeResponse]
EncodeContext = grpc.aio.ServicerContext[pb.EncodeRequest, pb.EncodeResponse]


class VaeServicer(vae_pb2_grpc.VaeServiceServicer):
    def __init__(self, runner: StageRunner, models: ModelCatalog) -> None:
        self._runner = runner
        self._models = models

    async def Decode(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.DecodeRequest], context: DecodeContext
    ) -> None:
        parameters = await tensor_requests.read_parameters(request_iterator)
        model = self._models.resolve(parameters.model, "parameters.model")
        _check_decode(parameters)
        if parameters.frame_count:
            await self._decode_pieces(parameters, model, request_iterator, context)
            return
        received = await tensor_requests.read_tensors(request_iterator, "latents")
        latents = tensors.require(received, "latents", None, None, model.latent_channel_count)
        checks = Checks()
        checks.at_most(latents.shape[0], "items", "tensor.latents.shape", MAX_BATCH_SIZE)
        checks.at_most(latents.shape[1], "frames", "tensor.latents.shape", MAX_FRAME_COUNT)
        checks.done()
        job = _decode_job(parameters, model, latents, latents.shape[1])
        await relay(self._runner, job, context, pb.DecodeResponse, partial(_audio, model))

    async def Encode(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.EncodeRequest], context: EncodeContext
    ) -> None:
        parameters = await tensor_requests.read_parameters(request_iterator)
        model = self._models.resolve(parameters.model, "parameters.model")
        checks = Checks()
        checks.within(parameters.tile_frame_count, "parameters.tile_frame_count", 0, MAX_FRAME_COUNT)
        checks.done()
        received = await tensor_requests.read_tensors(
            request_iterator, "audio", max_tensor_bytes=MAX_AUDIO_BYTES
        )
        audio = require_audio(received, model)
        await asyncio.to_thread(require_usable, audio)
        fields = {
            "model": model.name,
            "tile_frame_count": parameters.tile_frame_count,
            "frame_count": audio.shape[1] // model.hop_sample_count,
            "start_frame": 0,
        }
        job = Message("encode", fields, (audio,))
        await relay(self._runner, job, context, pb.EncodeResponse, _latents(fields["frame_count"]))

    async def _decode_pieces(
        self,
        parameters: pb.DecodeParameters,
        model: ModelFacts,
        requests: AsyncIterator[pb.DecodeRequest],
        context: DecodeContext,
    ) -> None:
        """Puts the job in line once its first tile and the halo are there, and feeds it what comes later."""
        frame_count = parameters.frame_count
        wanted = _wanted_frames(parameters, frame_count)
        pieces = LatentPieces(
            tensor_requests.read_pieces(requests, "latents"), frame_count, model.latent_channel_count
        )
        halo = self._runner.plans.facts().models[model.name].memory.halo_frame_count
        first_stop = min(wanted.start + FIRST_TILE_FRAMES, wanted.stop)
        first = await pieces.start(min(frame_count, first_stop + halo))
        job = _decode_job(parameters, model, first, frame_count)
        results = partial(_audio, model)
        working = asyncio.ensure_future(
            relay(self._runner, job, context, pb.DecodeResponse, results, pieces.feed)
        )
        feeding = asyncio.ensure_future(pieces.feed_rest())
        try:
            await asyncio.wait([working, feeding], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                feeding.result()
            await working
        finally:
            await end(feeding)
            await end(working)


def _audio(model: ModelFacts, message: Message) -> Iterator[pb.DecodeResponse]:
    for chunk in audio_chunks(message, model.sample_rate_hz):
        yield pb.DecodeResponse(audio=chunk)
    yield pb.DecodeResponse(tile=_tile_to_pb(message))


def add_servicer(
    runner: StageRunner, models: ModelCatalog, settings: Settings, server: grpc.aio.Server
) -> None:
    vae_pb2_grpc.add_VaeServiceServicer_to_server(VaeServicer(runner, models), server)


def _check_decode(parameters: pb.DecodeParameters) -> None:
    checks = Checks()
    for field in ("tile_frame_count", "frame_count", "start_frame", "stop_frame"):
        checks.within(getattr(parameters, field), f"parameters.{field}", 0, MAX_FRAME_COUNT)
    checks.done()


def _wanted_frames(parameters: pb.DecodeParameters, frame_count: int) -> range:
    """Raises `InvalidArgumentError` where the range does not lie within a song of `frame_count`."""
    start, stop = parameters.start_frame, parameters.stop_frame or frame_count
    checks = Checks()
    checks.within(stop, "parameters.stop_frame", 1, frame_count)
    checks.within(start, "parameters.start_frame", 0, min(stop, frame_count) - 1)
    checks.done()
    return range(start, stop)


def _decode_job(
    parameters: pb.DecodeParameters, model: ModelFacts, latents: tensors.WireTensor, frame_count: int
) -> Message:
    wanted = _wanted_frames(parameters, frame_count)
    fields = {
        "model": model.name,
        "tile_frame_count": parameters.tile_frame_count,
        "frame_count": frame_count,
        "start_frame": wanted.start,
        "stop_frame": wanted.stop,
    }
    return Message("decode", fields, (latents,))


def _latents(frame_count: int) -> Callable[[Message], Iterable[pb.EncodeResponse]]:
    """Collects the latents of all tiles, and sends them once all `frame_count` frames are there."""
    pieces: list[tensors.WireTensor] = []

    def results(message: Message) -> Iterator[pb.EncodeResponse]:
        pieces.extend(message.tensors)
        yield pb.EncodeResponse(tile=_tile_to_pb(message))
        if message.fields["stop_frame"] == frame_count:
            shape = (1, frame_count, pieces[0].shape[2])
            data = b"".join(piece.data for piece in pieces)
            for chunk in tensors.encode(tensors.WireTensor("latents", pieces[0].dtype, shape, data)):
                yield pb.EncodeResponse(tensor=chunk)

    return results


def _tile_to_pb(message: Message) -> pb.TileCompleted:
    fields = message.fields
    return pb.TileCompleted(
        tile=fields["tile"],
        tile_count=fields["tile_count"],
        frame_count=fields["frame_count"],
        halo_frame_count=fields["halo_frame_count"],
    )


def audio_chunks(tile: Message, sample_rate_hz: int) -> Iterator[pb.AudioChunk]:
    """The audio of a tile in messages of at most 1 MiB, each of whole samples."""
    audio = tile.tensors[0]
    channel_count = audio.shape[1]
    sample_bytes = tensors.ITEM_BYTES[audio.dtype] * channel_count
    step = tensors.CHUNK_BYTES // sample_bytes * sample_bytes
    data = memoryview(audio.data)
    for start in range(0, len(data), step):
        yield pb.AudioChunk(
            item_index=tile.fields["item_index"],
            start_sample=tile.fields["start_sample"] + start // sample_bytes,
            samples=bytes(data[start : start + step]),
            channel_count=channel_count,
            sample_rate_hz=sample_rate_hz,
        )
