"""Request streams that carry parameters first and tensors after them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from acestage.errors import DeadlineExceededError, InvalidArgumentError
from acestage.protos.tensor.v1.tensor_pb2 import TensorChunk
from acestage.tensors import MAX_TENSOR_BYTES, TensorDecoder, WireTensor

SILENCE_TIMEOUT_S = 60.0
"""A client that has begun, or only called, and sends nothing for so long is given up."""


class TensorRequest(Protocol):
    """A message with `oneof part { parameters, tensor }`; the parameters' type is the stage's own."""

    @property
    def parameters(self) -> Any: ...

    @property
    def tensor(self) -> TensorChunk: ...

    def WhichOneof(self, oneof_group: Any, /) -> Any: ...


async def read(
    requests: AsyncIterator[TensorRequest], *accepted_names: str
) -> tuple[Any, dict[str, WireTensor]]:
    """The parameters and the tensors of a whole request stream; no other tensor may come.

    Raises:
        InvalidArgumentError: the parameters are missing, come late or twice, or a tensor is wrong.
        TensorCorruptError: a tensor's bytes do not match its checksum.
        DeadlineExceededError: nothing came for `SILENCE_TIMEOUT_S`.
    """
    parameters = await read_parameters(requests)
    return parameters, await read_tensors(requests, *accepted_names)


async def read_parameters(requests: AsyncIterator[TensorRequest]) -> Any:
    """The first message of a request stream.

    Raises:
        InvalidArgumentError: it is missing, or something else.
        DeadlineExceededError: nothing came for `SILENCE_TIMEOUT_S`.
    """
    first = await _next(requests)
    if first is None:
        raise InvalidArgumentError.at("parameters", "are missing: the stream was empty")
    if first.WhichOneof("part") != "parameters":
        raise InvalidArgumentError.at("parameters", "must be the first message of the stream")
    return first.parameters


async def read_tensors(
    requests: AsyncIterator[TensorRequest], *accepted_names: str, max_tensor_bytes: int = MAX_TENSOR_BYTES
) -> dict[str, WireTensor]:
    """The tensors of the rest of a request stream, whose parameters have been read; errors as of `read`.

    Larger ones than `max_tensor_bytes` are refused before their data is there.
    """
    decoder = TensorDecoder(accepted_names, max_tensor_bytes)
    async for chunk in _chunks(_in_time(requests)):
        decoder.feed(chunk)
    return decoder.finish()


async def read_pieces(requests: AsyncIterator[TensorRequest], name: str) -> AsyncIterator[WireTensor]:
    """The tensors of the rest of a request stream as they come; all of them have the same name.

    Errors are those of `read`, but for the deadline: pieces may take as long as they do to be made.
    """
    decoder = TensorDecoder((name,))
    async for chunk in _chunks(requests):
        decoder.feed(chunk)
        for tensor in decoder.take():
            yield tensor
    decoder.finish()


async def _in_time(requests: AsyncIterator[TensorRequest]) -> AsyncIterator[TensorRequest]:
    """`requests`, from a client that has all of them: what it began to send must not lie here for ever."""
    while (request := await _next(requests)) is not None:
        yield request


async def _next(requests: AsyncIterator[TensorRequest]) -> TensorRequest | None:
    try:
        async with asyncio.timeout(SILENCE_TIMEOUT_S):
            return await anext(requests, None)
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"request: nothing came for {SILENCE_TIMEOUT_S:g} s; accepted: messages without such a pause"
        ) from error


async def _chunks(requests: AsyncIterator[TensorRequest]) -> AsyncIterator[TensorChunk]:
    async for request in requests:
        part = request.WhichOneof("part")
        if part == "parameters":
            raise InvalidArgumentError.at("parameters", "were sent twice")
        if part != "tensor":
            raise InvalidArgumentError.at("part", "is empty; expected `parameters` or `tensor`")
        yield request.tensor
