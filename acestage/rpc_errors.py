"""Errors across the wire: `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo details."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from acestage import errors
from acestage.protobuf_times import duration, seconds

DOMAIN = "acestage"

MAX_STATUS_BYTES = 3_500
"""gRPC refuses metadata above 8 KiB. A status travels in it as base64, 4/3 of its size, and its message a
second time, with up to 3 bytes for each of its own."""
MAX_MESSAGE_BYTES = 1_000
MAX_METADATA_COUNT = 6
MAX_METADATA_BYTES = 200
MAX_VIOLATION_COUNT = 20
MAX_FIELD_BYTES = 100
MAX_DESCRIPTION_BYTES = 300
_PACKING_BYTES = 64
"""More than the type name and the lengths around a BadRequest take."""


def to_status(error: errors.AcestageError) -> status_pb2.Status:
    """The rich status of `error`: ErrorInfo always, BadRequest and RetryInfo where they apply.

    Long texts are cut, and violations that do not fit into `MAX_STATUS_BYTES` are left out.
    """
    metadata = {
        _shortened(key, MAX_FIELD_BYTES): _shortened(value, MAX_METADATA_BYTES)
        for key, value in itertools.islice(error.metadata.items(), MAX_METADATA_COUNT)
    }
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code.name),
        message=_shortened(error.message, MAX_MESSAGE_BYTES),
        details=[_pack(info)],
    )
    if error.retry_delay_s is not None:
        retry = error_details_pb2.RetryInfo(retry_delay=duration(error.retry_delay_s))
        status.details.append(_pack(retry))
    if isinstance(error, errors.InvalidArgumentError) and error.violations:
        room_bytes = MAX_STATUS_BYTES - status.ByteSize() - _PACKING_BYTES
        status.details.append(_pack(_bad_request(error.violations, room_bytes)))
    return status


def from_rpc_error(error: grpc.RpcError, *, target: str) -> errors.AcestageError:
    """The error of our tree that `error` carries.

    An error without our details comes from gRPC itself: an unreachable target, a passed deadline, a
    cancelled call. It maps to the class of the same status code, and its message names `target`.
    """
    call: Any = error  # every error that a call raises, blocking or asyncio, has a call's methods
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # the details contradict the code: somebody in between changed it
        status = None
    if status is not None:
        rebuilt = _from_status(status)
        if rebuilt is not None:
            return rebuilt
    code: grpc.StatusCode = call.code()
    details: str = call.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServiceUnreachableError(
            f"{target} does not answer: {details}", metadata={"target": target}, retry_delay_s=1.0
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.FailedPreconditionError(
            f"{target} does not know this call: {details}; is that the right address, and does a service of "
            "this version answer there?",
            metadata={"target": target},
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(f"{target} did not answer in time", metadata={"target": target})
    by_code: dict[grpc.StatusCode, type[errors.AcestageError]] = {
        grpc.StatusCode.CANCELLED: errors.CancelledError,
        grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
        grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    }
    return by_code.get(code, errors.InternalError)(
        f"{target} answered {code.name}: {details}", metadata={"target": target}
    )


def _bad_request(
    violations: Iterable[errors.FieldViolation], room_bytes: int
) -> error_details_pb2.BadRequest:
    """The first of `violations`, as many as `room_bytes` hold."""
    bad_request = error_details_pb2.BadRequest()
    for violation in itertools.islice(violations, MAX_VIOLATION_COUNT):
        bad_request.field_violations.add(
            field=_shortened(violation.field, MAX_FIELD_BYTES),
            description=_shortened(violation.description, MAX_DESCRIPTION_BYTES),
        )
        if bad_request.ByteSize() > room_bytes:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _shortened(text: str, most_bytes: int) -> str:
    """`text`, cut and closed with an ellipsis where it takes more than `most_bytes` in UTF-8."""
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    return encoded[: most_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _from_status(status: status_pb2.Status) -> errors.AcestageError | None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for message in (info, bad_request, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    if info.domain != DOMAIN:
        return None
    cls = errors.error_classes().get(info.reason, errors.InternalError)
    retry_delay_s = seconds(retry.retry_delay) if retry.HasField("retry_delay") else None
    metadata = dict(info.metadata)
    if issubclass(cls, errors.InvalidArgumentError):
        violations = [errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        return cls(status.message, violations=violations, metadata=metadata, retry_delay_s=retry_delay_s)
    return cls(status.message, metadata=metadata, retry_delay_s=retry_delay_s)
