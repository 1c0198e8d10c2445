"""The tensor codec: a tensor on the wire is a `TensorSpec` and then its bytes in 1 MiB chunks.

Nothing here imports torch at module level, so that processes which only pass tensors on stay small;
`WireTensor.from_torch` and `WireTensor.to_torch` import it when they are called.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google_crc32c

from acestage.errors import InvalidArgumentError, TensorCorruptError
from acestage.protos.tensor.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 1 << 20
"""Bytes of tensor data in one message: where localhost throughput stops growing, well below gRPC's 4 MiB."""

MAX_TENSOR_BYTES = 64 << 20
"""Larger tensors are refused, unless a call accepts more. The largest latents, eight items of ten minutes,
are 30.7 MB: 8 x 15,000 frames x 64 channels x 4 bytes."""

MAX_NAME_CHARACTERS = 64
MAX_DIMENSION_COUNT = 8

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8}
"""Bytes of an element by data type name; these are the types that may cross the wire."""

_invalid = InvalidArgumentError.at

_TO_PB = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "bfloat16": pb.DATA_TYPE_BFLOAT16,
    "int64": pb.DATA_TYPE_INT64,
}
_FROM_PB = {value: name for name, value in _TO_PB.items()}


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A dense tensor as bytes.

    Attributes:
        name: unique within a call.
        dtype: a key of `ITEM_BYTES`.
        shape: row-major dimensions.
        data: little-endian element bytes, `prod(shape) * ITEM_BYTES[dtype]` of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview

    @classmethod
    def from_torch(cls, name: str, tensor: torch.Tensor) -> WireTensor:
        """Copies `tensor` (any device, a data type of `ITEM_BYTES`) into host bytes."""
        import torch

        host = tensor.detach().to("cpu").contiguous()
        data = host.reshape(-1).view(torch.uint8).numpy().tobytes()
        return cls(name, str(host.dtype).removeprefix("torch."), tuple(host.shape), data)

    def to_torch(self) -> torch.Tensor:
        """A CPU tensor of this shape and data type that owns its memory."""
        import torch

        flat = torch.frombuffer(bytearray(self.data), dtype=getattr(torch, self.dtype))
        return flat.reshape(self.shape)

    def view_torch(self) -> torch.Tensor:
        """The same on the memory of `data` itself, unless that is read-only; not to be changed."""
        import torch

        view = memoryview(self.data)
        flat = torch.frombuffer(bytearray(view) if view.readonly else view, dtype=getattr(torch, self.dtype))
        return flat.reshape(self.shape)


def encode(tensor: WireTensor) -> Iterator[pb.TensorChunk]:
    """The messages that carry `tensor`: the spec, then chunks of at most `CHUNK_BYTES`."""
    data = memoryview(tensor.data).cast("B")
    yield pb.TensorChunk(
        spec=pb.TensorSpec(
            name=tensor.name,
            data_type=_TO_PB[tensor.dtype],
            shape=tensor.shape,
            size_bytes=len(data),
            crc32c=_checksum(data),
        )
    )
    for start in range(0, len(data), CHUNK_BYTES):
        yield pb.TensorChunk(data=bytes(data[start : start + CHUNK_BYTES]))


def _checksum(data: memoryview) -> int:
    """CRC-32C, chunk by chunk, since it takes nothing but bytes: never a copy of the whole."""
    crc32c = 0
    for start in range(0, len(data), CHUNK_BYTES):
        crc32c = google_crc32c.extend(crc32c, bytes(data[start : start + CHUNK_BYTES]))
    return crc32c


class TensorDecoder:
    """Collects the tensors of one call from its `TensorChunk` messages.

    Feed every message, then call `finish`. Any message that does not follow the protocol raises
    `InvalidArgumentError` with the field named; bytes that do not match their checksum raise
    `TensorCorruptError`.
    """

    def __init__(
        self, accepted: Collection[str] | None = None, max_tensor_bytes: int = MAX_TENSOR_BYTES
    ) -> None:
        """Prepares.

        Args:
            accepted: the names that tensors may have; None where any name will do.
            max_tensor_bytes: larger tensors are refused before their data is there.
        """
        self._accepted = accepted
        self._max_tensor_bytes = max_tensor_bytes
        self._spec: pb.TensorSpec | None = None
        self._buffer = bytearray()
        self._crc32c = 0
        self._tensors: dict[str, WireTensor] = {}

    def feed(self, chunk: pb.TensorChunk) -> None:
        """Takes one message."""
        kind = chunk.WhichOneof("chunk")
        if kind == "spec":
            self._begin(chunk.spec)
        elif kind == "data":
            self._append(chunk.data)
        else:
            raise _invalid("tensor.chunk", "is empty; expected `spec` or `data`")

    def take(self) -> list[WireTensor]:
        """The tensors that are complete, in order, and no longer kept: others may come under their names."""
        taken = list(self._tensors.values())
        self._tensors.clear()
        return taken

    def finish(self) -> dict[str, WireTensor]:
        """All tensors by name, once no more messages come."""
        if self._spec is not None:
            raise _invalid(
                f"tensor.{self._spec.name}.data",
                f"ended after {len(self._buffer)} of {self._spec.size_bytes} bytes",
            )
        return self._tensors

    def _begin(self, spec: pb.TensorSpec) -> None:
        if self._spec is not None:
            raise _invalid(
                f"tensor.{self._spec.name}.data",
                f"ended after {len(self._buffer)} of {self._spec.size_bytes} bytes: a new spec arrived",
            )
        if not spec.name:
            raise _invalid("tensor.spec.name", "is empty")
        if len(spec.name) > MAX_NAME_CHARACTERS:
            raise _invalid(
                "tensor.spec.name",
                f"has {len(spec.name)} characters; accepted: up to {MAX_NAME_CHARACTERS}",
            )
        field = f"tensor.{spec.name}"
        if self._accepted is not None and spec.name not in self._accepted:
            raise _invalid(field, f"is not expected; accepted: {', '.join(self._accepted)}")
        if spec.name in self._tensors:
            raise _invalid(f"{field}.name", "was sent twice")
        if spec.data_type not in _FROM_PB:
            raise _invalid(f"{field}.data_type", f"is {spec.data_type}; accepted: {', '.join(ITEM_BYTES)}")
        if len(spec.shape) > MAX_DIMENSION_COUNT:
            raise _invalid(
                f"{field}.shape",
                f"has {len(spec.shape)} dimensions; accepted: up to {MAX_DIMENSION_COUNT}",
            )
        if not spec.shape or min(spec.shape) < 1:
            raise _invalid(f"{field}.shape", f"is {list(spec.shape)}; every dimension must be at least 1")
        expected = math.prod(spec.shape) * ITEM_BYTES[_FROM_PB[spec.data_type]]
        if expected > self._max_tensor_bytes:
            raise _invalid(
                f"{field}.shape",
                f"{list(spec.shape)} takes {expected} bytes; accepted: up to {self._max_tensor_bytes}",
            )
        if spec.size_bytes != expected:
            raise _invalid(
                f"{field}.size_bytes",
                f"is {spec.size_bytes}; {list(spec.shape)} of {_FROM_PB[spec.data_type]} takes {expected}",
            )
        self._spec = spec

    def _append(self, data: bytes) -> None:
        spec = self._spec
        if spec is None:
            raise _invalid("tensor.data", "arrived without a spec before it")
        if not data:
            raise _invalid(f"tensor.{spec.name}.data", "is empty")
        if len(self._buffer) + len(data) > spec.size_bytes:
            raise _invalid(
                f"tensor.{spec.name}.data",
                f"has at least {len(self._buffer) + len(data)} bytes; the spec says {spec.size_bytes}",
            )
        self._buffer += data
        self._crc32c = google_crc32c.extend(self._crc32c, data)
        if len(self._buffer) < spec.size_bytes:
            return
        if self._crc32c != spec.crc32c:
            raise TensorCorruptError(
                f"tensor.{spec.name}.crc32c: the {len(self._buffer)} bytes that arrived have checksum "
                f"{self._crc32c:#010x}; the spec says {spec.crc32c:#010x}",
                metadata={"tensor": spec.name},
                retry_delay_s=0.0,
            )
        shape = tuple(spec.shape)
        self._tensors[spec.name] = WireTensor(spec.name, _FROM_PB[spec.data_type], shape, self._buffer)
        self._spec, self._buffer, self._crc32c = None, bytearray(), 0


def require(tensors: Mapping[str, WireTensor], name: str, *shape: int | None) -> WireTensor:
    """The tensor called `name`, checked to be floating point and of `shape`, where None fits any size.

    Raises:
        InvalidArgumentError: it is missing, or its type or shape is wrong.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise _invalid(f"tensor.{name}", f"is missing; got: {', '.join(sorted(tensors)) or 'no tensor'}")
    if tensor.dtype == "int64":
        raise _invalid(f"tensor.{name}.data_type", "is int64; accepted: float32, float16, bfloat16")
    fits = len(tensor.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise _invalid(f"tensor.{name}.shape", f"is {list(tensor.shape)}; accepted: [{wanted}]")
    return tensor
