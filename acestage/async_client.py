"""The asyncio client of the orchestrator."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import cached_property
from types import TracebackType
from typing import Any, Self, Unpack

import grpc.aio

from acestage.access import NO_ACCESS, Access, check_access, open_aio_channel
from acestage.audio import Audio, AudioSource, Upload, UploadProgress
from acestage.client import DEFAULT_TARGET
from acestage.generation import Generation, GenerationEvent, JobQueued
from acestage.generation_options import GenerationOptions
from acestage.generation_request import request_to_pb
from acestage.generation_stream import GenerationStream, makes_tracks
from acestage.limits import Limits
from acestage.orchestrator_errors import Calls, ended_early
from acestage.protos.audio.v1 import audio_pb2, audio_pb2_grpc
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.status import Status, status_from_pb


class AsyncClient:
    """The asyncio client; the same methods as `Client`. Use it with `async with`, or await `close`.

    It may be made where no event loop runs, and then belongs to the one in which it is used first.
    """

    def __init__(self, target: str = DEFAULT_TARGET, access: Access = NO_ACCESS) -> None:
        self.target = target
        self._calls = Calls(target)
        check_access(access)
        self._access = access
        self._opened: grpc.aio.Channel | None = None

    @property
    def _channel(self) -> grpc.aio.Channel:
        if self._opened is None:
            self._opened = open_aio_channel(self.target, self._access)
        return self._opened

    @cached_property
    def _stub(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        return generation_pb2_grpc.GenerationServiceStub(self._channel)

    @cached_property
    def _audio_stub(self) -> audio_pb2_grpc.AudioServiceAsyncStub:
        return audio_pb2_grpc.AudioServiceStub(self._channel)

    async def generate(
        self,
        caption: str,
        *,
        on_event: Callable[[GenerationEvent], Awaitable[Any] | Any] = lambda event: None,
        timeout_s: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """See `Client.generate`; `on_event` may be async. Cancelling the task cancels the work."""
        async with aclosing(self.stream(caption, timeout_s=timeout_s, **options)) as events:
            async for event in events:
                if inspect.isawaitable(heard := on_event(event)):
                    await heard
                if isinstance(event, Generation):
                    return event
        raise ended_early(self.target)

    async def stream(
        self, caption: str, *, timeout_s: float | None = None, **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See `Client.stream`."""
        stream = GenerationStream()
        request = request_to_pb(caption, options)
        with self._calls.one():
            call = self._stub.Generate(request, timeout=timeout_s)
            try:
                async for response in call:
                    yield await _read(stream, response)
            finally:
                call.cancel()

    async def submit(
        self, caption: str, *, timeout_s: float | None = None, **options: Unpack[GenerationOptions]
    ) -> str:
        """See `Client.submit`."""
        events = self.stream(caption, timeout_s=timeout_s, **options | {"detached": True})
        return await queued_job_id(events, self.target)

    async def attach(
        self, job_id: str, *, timeout_s: float | None = None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See `Client.attach`."""
        stream = GenerationStream()
        with self._calls.one():
            call = self._stub.AttachJob(pb.AttachJobRequest(job_id=job_id), timeout=timeout_s)
            try:
                async for response in call:
                    yield await _read(stream, response.event)
            finally:
                call.cancel()

    async def cancel(self, job_id: str, timeout_s: float = 60.0) -> str:
        """See `Client.cancel`."""
        request = pb.CancelJobRequest(job_id=job_id)
        with self._calls.one():
            return (await self._stub.CancelJob(request, timeout=timeout_s)).outcome

    async def audio_codes(self, source_id: str, *, model: str = "", timeout_s: float | None = None) -> str:
        """See `Client.audio_codes`."""
        request = pb.GetAudioCodesRequest(source_id=source_id, model=model)
        with self._calls.one():
            return (await self._stub.GetAudioCodes(request, timeout=timeout_s)).audio_codes

    async def status(self, timeout_s: float = 10.0) -> Status:
        """See `Client.status`."""
        with self._calls.one():
            return status_from_pb(await self._stub.GetStatus(pb.GetStatusRequest(), timeout=timeout_s))

    async def limits(self, timeout_s: float = 10.0, *, model: str = "") -> Limits:
        """See `Client.limits`."""
        request = pb.GetLimitsRequest(model=model)
        with self._calls.one():
            return Limits.from_pb(await self._stub.GetLimits(request, timeout=timeout_s))

    async def upload(
        self,
        source: AudioSource,
        *,
        sample_rate_hz: float | None = None,
        on_progress: UploadProgress | None = None,
        timeout_s: float | None = None,
    ) -> Audio:
        """See `Client.upload`. Cancelling the task ends the upload."""
        with Upload(source, sample_rate_hz, on_progress) as upload, self._calls.one():
            call = self._audio_stub.Upload(_in_thread(iter(upload)), timeout=timeout_s)
            try:
                response = await call
            finally:
                call.cancel()
        return Audio.from_pb(response.audio)

    async def audio(self, audio_id: str, timeout_s: float = 10.0) -> Audio:
        """See `Client.audio`."""
        request = audio_pb2.GetAudioRequest(audio_id=audio_id)
        with self._calls.one():
            return Audio.from_pb((await self._audio_stub.GetAudio(request, timeout=timeout_s)).audio)

    async def delete_audio(self, audio_id: str, timeout_s: float = 10.0) -> None:
        """See `Client.delete_audio`."""
        request = audio_pb2.DeleteAudioRequest(audio_id=audio_id)
        with self._calls.one():
            await self._audio_stub.DeleteAudio(request, timeout=timeout_s)

    async def close(self) -> None:
        """See `Client.close`."""
        self._calls.close()
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def queued_job_id(events: AsyncGenerator[GenerationEvent, None], target: str) -> str:
    """The id of the job whose `events` come from the orchestrator at `target`; closes them."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, JobQueued):
                return event.job_id
    raise ended_early(target)


async def _in_thread(requests: Iterator[audio_pb2.UploadRequest]) -> AsyncGenerator[audio_pb2.UploadRequest]:
    """The same requests, made off the event loop."""
    while (request := await asyncio.to_thread(next, requests, None)) is not None:
        yield request


async def _read(stream: GenerationStream, response: pb.GenerateResponse) -> GenerationEvent:
    """The event of `response`; what makes tracks takes long enough to be done off the event loop."""
    if makes_tracks(response):
        return await asyncio.to_thread(stream.read, response)
    return stream.read(response)
