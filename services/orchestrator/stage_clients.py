"""The orchestrator's side of the stages: one call each, events passed on, errors of our tree."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from acestage import tensors
from acestage.errors import (
    AcestageError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ServiceUnreachableError,
)
from acestage.protos.dit.v1 import dit_pb2, dit_pb2_grpc
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.protos.text_encoder.v1 import text_encoder_pb2, text_encoder_pb2_grpc
from acestage.protos.vae.v1 import vae_pb2, vae_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from acestage.tensors import WireTensor
from services.runtime.processes.request_context import outgoing_metadata

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT", covariant=True)

INFO_TIMEOUT_S = 10.0

RESTART_TIMEOUT_S = 120.0
"""For how long a job whose turn has come waits for a stage that is started again."""

ASK_AGAIN_S = 0.2
"""Between attempts to ask a stage that ends as it is asked."""


class Call(Protocol[ResponseT]):
    """A streaming call of grpc.aio."""

    def __aiter__(self) -> AsyncIterator[ResponseT]: ...

    def cancel(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the caller stops waiting, on the event loop's clock; None: never."""

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        return cls(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    def remaining_s(self) -> float | None:
        """What remains for the next hop."""
        return None if self.at is None else max(0.0, self.at - asyncio.get_running_loop().time())

    def within_s(self, seconds: float) -> float:
        """What remains for a wait of `seconds` at most."""
        remaining_s = self.remaining_s()
        return seconds if remaining_s is None else min(seconds, remaining_s)


class StageClient:
    """A stage at `target`."""

    def __init__(
        self, stage: str, target: str, channel: grpc.aio.Channel, aside: grpc.aio.Channel | None = None
    ) -> None:
        """Prepares.

        Args:
            stage: its name.
            target: its address, for messages.
            channel: for the work on whole songs.
            aside: for all other calls; None where that is `channel`, too. Each channel calls replicas of a
                stage in turns: with short calls between them, all songs may go to one replica.
        """
        self.stage = stage
        self.target = target
        self._channel = channel
        self._aside = channel if aside is None else aside
        self._info = stage_pb2_grpc.StageServiceStub(self._aside)

    async def info(
        self, timeout_s: float = INFO_TIMEOUT_S, *, with_memory: bool = False
    ) -> stage_pb2.GetStageInfoResponse:
        """What the stage runs; waits for a stage that starts again, `timeout_s` at most.

        By then songs find their way to it, too. With its memory this takes time from a job that runs.

        Raises:
            ServiceUnreachableError: it does not answer.
            AcestageError: it refuses.
        """
        request = stage_pb2.GetStageInfoRequest(with_memory=with_memory)
        deadline = Deadline.after(timeout_s)
        while True:
            try:
                info = await self._info.GetStageInfo(
                    request, timeout=deadline.remaining_s(), wait_for_ready=True
                )
                async with asyncio.timeout(deadline.remaining_s()):
                    await self._channel.channel_ready()  # it may still wait before it tries to connect again
            except grpc.RpcError as error:
                found = from_rpc_error(error, target=self._name)
                if isinstance(found, DeadlineExceededError):
                    raise self._silent(timeout_s) from error
                if not isinstance(found, ServiceUnreachableError):  # else it ended as it was asked
                    raise found from error
            except TimeoutError as error:
                raise self._silent(timeout_s) from error
            else:
                return info
            await asyncio.sleep(ASK_AGAIN_S)

    @contextlib.asynccontextmanager
    async def responses(self, call: Call[ResponseT]) -> AsyncIterator[AsyncIterator[ResponseT]]:
        """The responses of `call`; leaving the context cancels it, and errors are those of our tree."""
        try:
            yield aiter(call)
        except grpc.RpcError as error:
            raise self._as_of_the_request(from_rpc_error(error, target=self._name)) from error
        finally:
            call.cancel()

    async def tensors(self, call: Call[Any], on_event: Callable[[Any], Any]) -> dict[str, WireTensor]:
        """The tensors that `call` sends, by name; every other response goes to `on_event`.

        Raises:
            InternalError: they do not follow the protocol of tensors.
            AcestageError: the stage failed.
        """
        decoder = tensors.TensorDecoder()
        async with self.responses(call) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "tensor":
                    with self._answering():
                        decoder.feed(response.tensor)
                else:
                    on_event(response)
        with self._answering():
            return decoder.finish()

    def require(self, answer: Mapping[str, WireTensor], name: str, *shape: int | None) -> WireTensor:
        """The tensor called `name` of an answer, of `shape`, where None fits any size.

        Raises:
            InternalError: it is missing, or its type or shape is wrong.
        """
        with self._answering():
            return tensors.require(answer, name, *shape)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """What is wrong with an answer is the stage's fault, not that of the client's request."""
        try:
            yield
        except InvalidArgumentError as error:
            raise InternalError(
                f"{self._name} gave a wrong answer: {error.message}", metadata={"stage": self.stage}
            ) from error

    def _as_of_the_request(self, error: AcestageError) -> AcestageError:
        """`error` as who made the request may take it.

        Fields are named as in a client's request, which has those of a stage's parameters. It has no tensors:
        those come from other stages.
        """
        if not isinstance(error, InvalidArgumentError) or not error.violations:
            return error
        if any(violation.field.startswith("tensor.") for violation in error.violations):
            return InternalError(
                f"{self._name} refuses what was made for it: {error.message}", metadata={"stage": self.stage}
            )
        return error.retold(
            lambda violation: replace(violation, field=violation.field.removeprefix("parameters."))
        )

    def _silent(self, waited_s: float) -> ServiceUnreachableError:
        return ServiceUnreachableError(
            f"{self._name} does not answer within {waited_s:.3g} s",
            metadata={"target": self._name},
            retry_delay_s=waited_s,
        )

    @property
    def _name(self) -> str:
        return f"{self.stage} at {self.target}"


class TextEncoderClient(StageClient):
    async def encode(
        self,
        parameters: text_encoder_pb2.EncodeParameters,
        latents: Iterable[WireTensor],
        on_event: Callable[[text_encoder_pb2.EncodeResponse], Any],
        deadline: Deadline,
    ) -> dict[str, WireTensor]:
        """The conditioning tensors by name; every other response goes to `on_event`."""
        stub = text_encoder_pb2_grpc.TextEncoderServiceStub(self._channel)
        requests = _requests(text_encoder_pb2.EncodeRequest, parameters, latents)
        call = stub.Encode(requests, timeout=deadline.remaining_s(), metadata=outgoing_metadata())
        return await self.tensors(call, on_event)

    async def tokenize(
        self,
        parameters: text_encoder_pb2.TokenizeParameters,
        latents: WireTensor,
        on_event: Callable[[text_encoder_pb2.TokenizeResponse], Any],
        deadline: Deadline,
    ) -> tuple[int, ...]:
        """The audio codes of `latents`; every other response goes to `on_event`."""
        stub = text_encoder_pb2_grpc.TextEncoderServiceStub(self._aside)
        requests = _requests(text_encoder_pb2.TokenizeRequest, parameters, [latents])
        codes: list[int] = []
        call = stub.Tokenize(requests, timeout=deadline.remaining_s(), metadata=outgoing_metadata())
        async with self.responses(call) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "codes":
                    codes += response.codes.codes
                else:
                    on_event(response)
        return tuple(codes)


class DitClient(StageClient):
    async def check_adapters(self, adapters: Iterable[dit_pb2.Adapter], timeout_s: float) -> None:
        """Checks that adapters can be used.

        Raises:
            InvalidArgumentError: with every wrong field.
            AcestageError: the stage does not answer.
        """
        stub = dit_pb2_grpc.DitServiceStub(self._aside)
        request = dit_pb2.CheckAdaptersRequest(adapters=adapters)
        try:
            await stub.CheckAdapters(request, timeout=timeout_s, metadata=outgoing_metadata())
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self._name) from error

    async def denoise(
        self,
        parameters: dit_pb2.DenoiseParameters,
        conditioning: Iterable[WireTensor],
        shape: tuple[int, int, int],
        on_event: Callable[[dit_pb2.DenoiseResponse], Any],
        deadline: Deadline,
        *,
        is_preview: bool = False,
    ) -> WireTensor:
        """The latents, of `shape` [items, frames, channels]; every other response goes to `on_event`."""
        stub = dit_pb2_grpc.DitServiceStub(self._aside if is_preview else self._channel)
        requests = _requests(dit_pb2.DenoiseRequest, parameters, conditioning)
        call = stub.Denoise(requests, timeout=deadline.remaining_s(), metadata=outgoing_metadata())
        return self.require(await self.tensors(call, on_event), "latents", *shape)


class VaeClient(StageClient):
    async def encode(
        self,
        parameters: vae_pb2.EncodeParameters,
        audio: WireTensor,
        shape: tuple[int, int, int],
        on_event: Callable[[vae_pb2.EncodeResponse], Any],
        deadline: Deadline,
    ) -> WireTensor:
        """The latents of `audio`, of `shape` [1, frames, channels]; other responses go to `on_event`."""
        stub = vae_pb2_grpc.VaeServiceStub(self._aside)
        requests = _requests(vae_pb2.EncodeRequest, parameters, [audio])
        call = stub.Encode(requests, timeout=deadline.remaining_s(), metadata=outgoing_metadata())
        return self.require(await self.tensors(call, on_event), "latents", *shape)

    async def decode(
        self,
        parameters: vae_pb2.DecodeParameters,
        latents: WireTensor,
        deadline: Deadline,
        *,
        is_preview: bool = False,
    ) -> AsyncGenerator[vae_pb2.DecodeResponse, None]:
        """The responses of the decode, audio and progress."""
        stub = vae_pb2_grpc.VaeServiceStub(self._aside if is_preview else self._channel)
        requests = _requests(vae_pb2.DecodeRequest, parameters, [latents])
        call = stub.Decode(requests, timeout=deadline.remaining_s(), metadata=outgoing_metadata())
        async with self.responses(call) as responses:
            async for response in responses:
                yield response


def _requests(
    request_type: Callable[..., RequestT], parameters: Message, items: Iterable[WireTensor]
) -> Iterator[RequestT]:
    """What goes to a stage: the parameters, then the tensors in chunks."""
    yield request_type(parameters=parameters)
    for tensor in items:
        for chunk in tensors.encode(tensor):
            yield request_type(tensor=chunk)
