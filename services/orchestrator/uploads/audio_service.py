"""The gRPC face of the audio store: uploads in, facts out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from acestage.errors import DeadlineExceededError, InvalidArgumentError, QueueFullError
from acestage.planning import MAX_DURATION_S
from acestage.protos.audio.v1 import audio_pb2 as pb
from acestage.protos.audio.v1 import audio_pb2_grpc
from services.orchestrator.uploads.audio_decoding import decode
from services.orchestrator.uploads.audio_facts import AudioFacts, RawFormat
from services.orchestrator.uploads.audio_intake import check_raw, most_raw_bytes
from services.orchestrator.uploads.audio_store import AudioStore
from services.runtime.processes.finishing import finish
from services.runtime.processes.tmp_folder import disk_error

MAX_UPLOAD_BYTES = 512 << 20
MAX_UPLOAD_COUNT = 8
"""Uploads at a time: with their decoded audio they take this many times 742 MB of the disk at most."""
DECODER_COUNT = 2
"""Decoders at a time; other uploads wait for their turn."""
RETRY_DELAY_S = 5.0
CHUNK_TIMEOUT_S = 60.0
"""A client that sends nothing for so long is given up."""
UPLOAD_TIMEOUT_S = 3600.0
"""And so is one that has not sent everything by then: the largest upload takes so long at 1.2 Mbit/s."""

UploadContext = grpc.aio.ServicerContext[pb.UploadRequest, pb.UploadResponse]
GetContext = grpc.aio.ServicerContext[pb.GetAudioRequest, pb.GetAudioResponse]
DeleteContext = grpc.aio.ServicerContext[pb.DeleteAudioRequest, pb.DeleteAudioResponse]
Decode = Callable[[Path, RawFormat | None, Path], Awaitable[AudioFacts]]


class AudioService(audio_pb2_grpc.AudioServiceServicer):
    """Writes uploads to disk as they come, and takes what they hold into the store.

    Args:
        store: where audio is kept.
        max_upload_bytes: the largest upload.
        max_upload_count: uploads at a time.
        chunk_timeout_s: how long a client may send nothing.
        upload_timeout_s: how long it may take to send everything.
        decode: what makes 48 kHz stereo of an upload.
    """

    def __init__(
        self,
        store: AudioStore,
        *,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        max_upload_count: int = MAX_UPLOAD_COUNT,
        chunk_timeout_s: float = CHUNK_TIMEOUT_S,
        upload_timeout_s: float = UPLOAD_TIMEOUT_S,
        decode: Decode = decode,
    ) -> None:
        self._store = store
        self._max_upload_bytes = max_upload_bytes
        self._max_upload_count = max_upload_count
        self._chunk_timeout_s = chunk_timeout_s
        self._upload_timeout_s = upload_timeout_s
        self._decode = decode
        self._upload_count = 0
        self._decoders = asyncio.Semaphore(DECODER_COUNT)

    async def Upload(
        self, request_iterator: AsyncIterator[pb.UploadRequest], context: UploadContext
    ) -> pb.UploadResponse:
        async with self._place() as folder:
            upload, decoded = folder / "upload", folder / "decoded"
            raw = await self._receive_in_time(aiter(request_iterator), upload)
            # A cancelled upload seems complete at first: gRPC ends the stream of requests, and cancels this
            # task right after. To send something takes until then.
            await context.send_initial_metadata(())
            async with self._decoders:
                facts = await self._decode(upload, raw, decoded)
            await finish(asyncio.to_thread(self._store.add, decoded, facts))
        return pb.UploadResponse(audio=facts.to_pb())

    async def GetAudio(self, request: pb.GetAudioRequest, context: GetContext) -> pb.GetAudioResponse:
        return pb.GetAudioResponse(audio=self._store.facts(request.audio_id).to_pb())

    async def DeleteAudio(
        self, request: pb.DeleteAudioRequest, context: DeleteContext
    ) -> pb.DeleteAudioResponse:
        await asyncio.to_thread(self._store.delete, request.audio_id)
        return pb.DeleteAudioResponse()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[Path]:
        """One of the places for uploads, with a folder that is removed when the place is free again."""
        if self._upload_count >= self._max_upload_count:
            raise QueueFullError(
                f"{self._upload_count} uploads are going on; accepted at a time: {self._max_upload_count}",
                retry_delay_s=RETRY_DELAY_S,
            )
        workspace = self._store.workspace()
        folder = workspace.__enter__()
        self._upload_count += 1
        try:
            yield folder
        finally:
            try:
                # Removing large files takes a while.
                await finish(asyncio.to_thread(workspace.__exit__, None, None, None))
            finally:
                self._upload_count -= 1

    async def _receive_in_time(
        self, requests: AsyncIterator[pb.UploadRequest], path: Path
    ) -> RawFormat | None:
        try:
            async with asyncio.timeout(self._upload_timeout_s):
                return await self._receive(requests, path)
        except TimeoutError:
            raise DeadlineExceededError(
                f"not everything came from the client within {self._upload_timeout_s:g} s; "
                "the upload was given up"
            ) from None

    async def _receive(self, requests: AsyncIterator[pb.UploadRequest], path: Path) -> RawFormat | None:
        """Writes the bytes of an upload to the file `path`; returns what its header says."""
        header = await self._next(requests)
        if header is None or header.WhichOneof("part") != "header":
            raise InvalidArgumentError.at("header", "must be the first message of the stream")
        raw = _raw_format(header.header)
        most_bytes = self._max_upload_bytes
        if raw is not None:
            check_raw(raw)
            most_bytes = min(most_bytes, most_raw_bytes(raw))
        byte_count = 0
        try:
            with path.open("xb") as file:
                while (request := await self._next(requests)) is not None:
                    _check_chunk(request)
                    byte_count += len(request.data)
                    if byte_count > most_bytes:
                        raise InvalidArgumentError.at("data", _too_large(byte_count, most_bytes, raw))
                    await finish(asyncio.to_thread(file.write, request.data))
        except OSError as error:
            raise disk_error(error.strerror) from error
        return raw

    async def _next(self, requests: AsyncIterator[pb.UploadRequest]) -> pb.UploadRequest | None:
        """The next message; None at the end of the stream."""
        try:
            async with asyncio.timeout(self._chunk_timeout_s):
                return await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceededError(
                f"nothing came from the client for {self._chunk_timeout_s:g} s; the upload was given up"
            ) from None


def _raw_format(header: pb.UploadHeader) -> RawFormat | None:
    if not header.HasField("raw"):
        return None
    return RawFormat(header.raw.sample_rate_hz, header.raw.channel_count)


def _check_chunk(request: pb.UploadRequest) -> None:
    part = request.WhichOneof("part")
    if part == "header":
        raise InvalidArgumentError.at("header", "was sent twice")
    if part is None:
        raise InvalidArgumentError.at("part", "is empty; accepted after the header: data")
    if not request.data:
        raise InvalidArgumentError.at("data", "has an empty chunk; accepted: 1 byte to 1 MiB")


def _too_large(byte_count: int, most_bytes: int, raw: RawFormat | None) -> str:
    text = f"has {byte_count} bytes or more; accepted: up to {most_bytes}"
    if raw is None or most_bytes < most_raw_bytes(raw):
        return text
    return f"{text}, {MAX_DURATION_S} s of {raw.channel_count} channels at {raw.sample_rate_hz} Hz"
