"""Request streams that carry parameters first and tensors after them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from acestage.errors import InvalidArgumentError
from acestage.protos.tensor.v1.tensor_pb2 import TensorChunk
from acestage.tensors import TensorDecoder, WireTensor


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
    """
    parameters: Any = None
    decoder = TensorDecoder(accepted_names)
    async for request in requests:
        part = request.WhichOneof("part")
        if part == "parameters":
            if parameters is not None:
                raise InvalidArgumentError.at("parameters", "were sent twice")
            parameters = request.parameters
        elif parameters is None:
            raise InvalidArgumentError.at("parameters", "must be the first message of the stream")
        elif part == "tensor":
            decoder.feed(request.tensor)
        else:
            raise InvalidArgumentError.at("part", "is empty; expected `parameters` or `tensor`")
    if parameters is None:
        raise InvalidArgumentError.at("parameters", "are missing: the stream was empty")
    return parameters, decoder.finish()
