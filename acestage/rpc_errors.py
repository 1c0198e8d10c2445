"""Errors across the wire: `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo details."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from acestage import errors

DOMAIN = "acestage"


def to_status(error: errors.AcestageError) -> status_pb2.Status:
    """The rich status of `error`: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    packed = [_pack(detail) for detail in details]
    if isinstance(error, errors.InvalidArgumentError) and error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        packed.append(_pack(bad_request))
    if error.retry_delay_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_delay_s * 1e9))
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code_pb2.Code.Value(error.code.name), message=error.message, details=packed)


def from_rpc_error(error: grpc.RpcError, *, target: str) -> errors.AcestageError:
    """The error of our tree that `error` carries.

    An error without our details comes from gRPC itself: an unreachable target, a passed deadline, a
    cancelled call. It maps to the class of the same status code, and its message names `target`.
    """
    call: Any = error  # every error that a call raises, blocking or asyncio, has a call's methods
    status = rpc_status.from_call(call)
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
    by_code: dict[grpc.StatusCode, type[errors.AcestageError]] = {
        grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
        grpc.StatusCode.CANCELLED: errors.CancelledError,
        grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    }
    return by_code.get(code, errors.InternalError)(
        f"{target} answered {code.name}: {details}", metadata={"target": target}
    )


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
    retry_delay_s = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    metadata = dict(info.metadata)
    if issubclass(cls, errors.InvalidArgumentError):
        violations = [errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        return cls(status.message, violations=violations, metadata=metadata, retry_delay_s=retry_delay_s)
    return cls(status.message, metadata=metadata, retry_delay_s=retry_delay_s)
