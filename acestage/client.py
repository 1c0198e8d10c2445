"""The blocking client of the orchestrator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Any, Self, Unpack

from acestage.access import NO_ACCESS, Access, open_channel
from acestage.audio import Audio, AudioSource, Upload, UploadProgress
from acestage.generation import Generation, GenerationEvent, JobQueued
from acestage.generation_options import GenerationOptions
from acestage.generation_request import request_to_pb
from acestage.generation_stream import GenerationStream
from acestage.limits import Limits
from acestage.orchestrator_errors import Calls, ended_early
from acestage.protos.audio.v1 import audio_pb2, audio_pb2_grpc
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.status import Status, status_from_pb

DEFAULT_TARGET = "127.0.0.1:50050"


class Client:
    """A blocking client. Use it as a context manager, or call `close`.

    Every method raises errors of `acestage.errors`.

    Args:
        target: the orchestrator's address, host:port.
        access: the key, and the certificates that are trusted; for services that ask for them.

    Raises:
        InvalidArgumentError: there is no target.
        FailedPreconditionError: the key or the certificates cannot be used.
    """

    def __init__(self, target: str = DEFAULT_TARGET, access: Access = NO_ACCESS) -> None:
        self.target = target
        self._calls = Calls(target)
        self._channel = open_channel(target, access)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._audio_stub = audio_pb2_grpc.AudioServiceStub(self._channel)

    def generate(
        self,
        caption: str,
        *,
        on_event: Callable[[GenerationEvent], Any] = lambda event: None,
        timeout_s: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """Generates music and waits for it.

        Args:
            caption: what the music is like.
            on_event: hears every event: queue, stages, steps, audio. An error of its own cancels the work.
            timeout_s: give up after this long; None never does.
            **options: see `GenerationOptions`.
        """
        with closing(self.stream(caption, timeout_s=timeout_s, **options)) as events:
            for event in events:
                on_event(event)
                if isinstance(event, Generation):
                    return event
        raise ended_early(self.target)

    def stream(
        self, caption: str, *, timeout_s: float | None = None, **options: Unpack[GenerationOptions]
    ) -> Generator[GenerationEvent, None, None]:
        """The events of a generation as they come, audio included; the last one is the `Generation`.

        Closing the iterator cancels the work within one step or tile, unless it is `detached`.
        """
        stream = GenerationStream()
        request = request_to_pb(caption, options)
        with self._calls.one():
            call = self._stub.Generate(request, timeout=timeout_s)
            try:
                for response in call:
                    yield stream.read(response)
            finally:
                call.cancel()

    def submit(
        self, caption: str, *, timeout_s: float | None = None, **options: Unpack[GenerationOptions]
    ) -> str:
        """Starts a detached job and returns its id as soon as it is queued; `attach` gets what it makes."""
        with closing(self.stream(caption, timeout_s=timeout_s, **options | {"detached": True})) as events:
            for event in events:
                if isinstance(event, JobQueued):
                    return event.job_id
        raise ended_early(self.target)

    def attach(
        self, job_id: str, *, timeout_s: float | None = None
    ) -> Generator[GenerationEvent, None, None]:
        """The events of a job from its first one on, audio included; the last one is the `Generation`.

        Ended jobs are kept for a while. Closing the iterator does not stop the job.
        """
        stream = GenerationStream()
        with self._calls.one():
            call = self._stub.AttachJob(pb.AttachJobRequest(job_id=job_id), timeout=timeout_s)
            try:
                for response in call:
                    yield stream.read(response.event)
            finally:
                call.cancel()

    def cancel(self, job_id: str, timeout_s: float = 60.0) -> str:
        """Stops a job within one step or tile, and waits for its end.

        Returns:
            "succeeded", "cancelled", or the reason of its error; an ended job stays as it is.
        """
        with self._calls.one():
            return self._stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=timeout_s).outcome

    def audio_codes(self, source_id: str, *, model: str = "", timeout_s: float | None = None) -> str:
        """The audio codes of an uploaded audio, as the option `audio_codes` takes them.

        Args:
            source_id: the id of the audio.
            model: whose audio tokenizer is to be used; empty means the first.
            timeout_s: give up after this long; None never does.
        """
        request = pb.GetAudioCodesRequest(source_id=source_id, model=model)
        with self._calls.one():
            return self._stub.GetAudioCodes(request, timeout=timeout_s).audio_codes

    def status(self, timeout_s: float = 10.0) -> Status:
        """Services, models, device, lease holder and queue."""
        with self._calls.one():
            return status_from_pb(self._stub.GetStatus(pb.GetStatusRequest(), timeout=timeout_s))

    def limits(self, timeout_s: float = 10.0, *, model: str = "") -> Limits:
        """What a request for `model` (empty: the first) may ask for here, and what set each limit."""
        request = pb.GetLimitsRequest(model=model)
        with self._calls.one():
            return Limits.from_pb(self._stub.GetLimits(request, timeout=timeout_s))

    def upload(
        self,
        source: AudioSource,
        *,
        sample_rate_hz: float | None = None,
        on_progress: UploadProgress | None = None,
        timeout_s: float | None = None,
    ) -> Audio:
        """Uploads audio for requests to work on, which then name it by its id.

        Args:
            source: the path of a file (WAV, FLAC, Ogg, MP3, AIFF, …), such a file open for reading, or
                samples [count] or [count, channels] in floating point, where 1 is full scale.
            sample_rate_hz: that of samples; left out for files.
            on_progress: hears the bytes sent, and those in all or None; called from another thread. An error
                of its own ends the upload.
            timeout_s: give up after this long; None never does.
        """
        with Upload(source, sample_rate_hz, on_progress) as upload, self._calls.one():
            call = self._audio_stub.Upload.future(iter(upload), timeout=timeout_s)
            try:
                response = call.result()
            finally:
                call.cancel()
        return Audio.from_pb(response.audio)

    def audio(self, audio_id: str, timeout_s: float = 10.0) -> Audio:
        """What was uploaded under an id."""
        request = audio_pb2.GetAudioRequest(audio_id=audio_id)
        with self._calls.one():
            return Audio.from_pb(self._audio_stub.GetAudio(request, timeout=timeout_s).audio)

    def delete_audio(self, audio_id: str, timeout_s: float = 10.0) -> None:
        """Drops uploaded audio; jobs that use it now may go on."""
        request = audio_pb2.DeleteAudioRequest(audio_id=audio_id)
        with self._calls.one():
            self._audio_stub.DeleteAudio(request, timeout=timeout_s)

    def close(self) -> None:
        """Ends the calls that run."""
        self._calls.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
