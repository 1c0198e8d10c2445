"""Messages between a stage's gRPC process and its preload and worker processes, over Unix sockets.

A frame is a 4-byte header length, an 8-byte payload length, a JSON header and the payload: the bytes of
the message's tensors, one after the other. JSON and raw bytes, so nothing is ever unpickled.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from acestage import errors
from acestage.tensors import CHUNK_BYTES, WireTensor

_PREFIX = struct.Struct(">IQ")
_MAX_HEADER_BYTES = 16 << 20
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        kind: what it says, for example "job", "step" or "error".
        fields: JSON values.
        tensors: tensors that go with it.
        later: what comes of it while it is worked on; only of a request that a worker has. Each message is
            waited for; `TimeoutError` says after how long, all in all, no more is.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[WireTensor, ...] = ()
    later: Iterable[Message] = ()

    def tensor_map(self) -> dict[str, WireTensor]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}


def pack(message: Message) -> bytes:
    """The frame of `message`."""
    return b"".join(frame_parts(message))


def frame_parts(message: Message) -> Iterator[bytes | memoryview]:
    """The frame of `message` in pieces of at most 1 MiB to be sent one after the other.

    Tensors are not copied here; nor does a transport of asyncio copy more than such a piece, so long as it is
    drained after each.
    """
    payload = [memoryview(tensor.data).cast("B") for tensor in message.tensors]
    specs = [(t.name, t.dtype, t.shape, len(data)) for t, data in zip(message.tensors, payload, strict=True)]
    header = json.dumps({"kind": message.kind, "fields": message.fields, "tensors": specs}).encode()
    # Padded, so that the first tensor is aligned in the memory of who receives it.
    header = header.ljust(-(-len(header) // _ALIGNMENT) * _ALIGNMENT)
    yield _PREFIX.pack(len(header), sum(map(len, payload)))
    for data in (memoryview(header), *payload):
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


def receive(connection: socket.socket) -> Message | None:
    """Blocks for the next message; None once the peer has closed or died."""
    prefix = _receive_exactly(connection, _PREFIX.size)
    if prefix is None:
        return None
    header_bytes, payload_bytes = _PREFIX.unpack(prefix)
    body = _receive_exactly(connection, _checked(header_bytes) + payload_bytes)
    return None if body is None else _unpack(body, header_bytes)


async def receive_async(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None once the peer has closed or died."""
    try:
        header_bytes, payload_bytes = _PREFIX.unpack(await reader.readexactly(_PREFIX.size))
        body = await reader.readexactly(_checked(header_bytes) + payload_bytes)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _unpack(body, header_bytes)


def error_message(error: errors.AcestageError) -> Message:
    """`error` as a message of kind "error"."""
    violations = error.violations if isinstance(error, errors.InvalidArgumentError) else ()
    return Message(
        "error",
        {
            "reason": error.reason,
            "message": error.message,
            "metadata": error.metadata,
            "retry_delay_s": error.retry_delay_s,
            "violations": [[v.field, v.description] for v in violations],
        },
    )


def to_error(message: Message) -> errors.AcestageError:
    """The error that a message of kind "error" carries."""
    fields = message.fields
    cls = errors.error_classes().get(fields["reason"], errors.InternalError)
    common = {"metadata": fields["metadata"], "retry_delay_s": fields["retry_delay_s"]}
    if issubclass(cls, errors.InvalidArgumentError):
        violations = [errors.FieldViolation(*violation) for violation in fields["violations"]]
        return cls(fields["message"], violations=violations, **common)
    return cls(fields["message"], **common)


def _checked(header_bytes: int) -> int:
    if header_bytes > _MAX_HEADER_BYTES:
        raise errors.InternalError(f"a message header of {header_bytes} bytes; at most {_MAX_HEADER_BYTES}")
    return header_bytes


def _receive_exactly(connection: socket.socket, size: int) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    got = 0
    while got < size:
        try:
            count = connection.recv_into(view[got:])
        except ConnectionError:
            return None
        if count == 0:
            return None
        got += count
    return buffer


def _unpack(body: bytes | bytearray, header_bytes: int) -> Message:
    view = memoryview(body)
    header = json.loads(bytes(view[:header_bytes]))
    tensors = []
    start = header_bytes
    for name, dtype, shape, size in header["tensors"]:
        tensors.append(WireTensor(name, dtype, tuple(shape), view[start : start + size]))
        start += size
    return Message(header["kind"], header["fields"], tuple(tensors))
