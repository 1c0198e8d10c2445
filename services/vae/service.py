"""The gRPC face of the VAE."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial

import grpc.aio

from acestage import tensors
from acestage.checks import Checks
from acestage.protos.vae.v1 import vae_pb2 as pb
from acestage.protos.vae.v1 import vae_pb2_grpc
from services.runtime import tensor_requests
from services.runtime.messages import Message
from services.runtime.model_catalog import ModelCatalog
from services.runtime.request_limits import MAX_FRAME_COUNT, MAX_ITEM_COUNT
from services.runtime.stage_events import relay
from services.runtime.stage_runner import StageRunner

Context = grpc.aio.ServicerContext[pb.DecodeRequest, pb.DecodeResponse]


class VaeServicer(vae_pb2_grpc.VaeServiceServicer):
    def __init__(self, runner: StageRunner, models: ModelCatalog) -> None:
        self._runner = runner
        self._models = models

    async def Decode(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.DecodeRequest], context: Context
    ) -> None:
        parameters, received = await tensor_requests.read(request_iterator, "latents")
        model = self._models.resolve(parameters.model, "parameters.model")
        latents = tensors.require(received, "latents", None, None, model.latent_channel_count)
        checks = Checks()
        checks.within(parameters.tile_frame_count, "parameters.tile_frame_count", 0, MAX_FRAME_COUNT)
        checks.at_most(latents.shape[0], "items", "tensor.latents.shape", MAX_ITEM_COUNT)
        checks.at_most(latents.shape[1], "frames", "tensor.latents.shape", MAX_FRAME_COUNT)
        checks.done()
        fields = {"model": model.name, "tile_frame_count": parameters.tile_frame_count}
        job = Message("decode", fields, (latents,))
        results = partial(_results, sample_rate_hz=model.sample_rate_hz)
        await relay(self._runner, job, context, pb.DecodeResponse, results)


def _results(message: Message, sample_rate_hz: int) -> Iterator[pb.DecodeResponse]:
    for chunk in audio_chunks(message, sample_rate_hz):
        yield pb.DecodeResponse(audio=chunk)
    tile, tile_count = message.fields["tile"], message.fields["tile_count"]
    yield pb.DecodeResponse(tile=pb.TileCompleted(tile=tile, tile_count=tile_count))


def add_servicer(runner: StageRunner, models: ModelCatalog, server: grpc.aio.Server) -> None:
    vae_pb2_grpc.add_VaeServiceServicer_to_server(VaeServicer(runner, models), server)


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
