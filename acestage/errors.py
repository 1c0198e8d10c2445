"""Every error that Acestage raises, as one tree.

    AcestageError
    ├── InvalidArgumentError            a field of the request is wrong
    ├── NotFoundError
    ├── UnauthenticatedError
    ├── FailedPreconditionError
    │   ├── CheckpointError             a checkpoint is missing, damaged or of an unknown kind
    │   └── ExportError                 a file of a song cannot be made
    ├── ResourceExhaustedError
    │   ├── VramBudgetExceededError     the device has fewer bytes than the work needs
    │   │   └── DeviceShortageError     other programs have bytes that were reckoned with
    │   └── QueueFullError
    ├── AbortedError
    │   ├── LeaseLostError              the lease ended while the work ran
    │   └── StaleFencingTokenError      a newer grant exists
    ├── UnavailableError
    │   ├── ServiceUnreachableError     a service does not answer, or ended the call as it stopped
    │   ├── WorkerCrashedError          the worker process died
    │   ├── WorkerStalledError          the worker made no progress
    │   └── DeviceQuarantinedError      the device has not proved free
    ├── DeadlineExceededError
    ├── DataLossError
    │   └── TensorCorruptError          bytes of a tensor are not those that were sent
    ├── CancelledError                  the caller ended the work
    └── InternalError                   a defect
        └── NonFiniteError              a result overflowed the data type it was computed in

An error names the field or the limit, what was given, and what would be accepted. Each class has the
gRPC status code and the `reason` that clients can rely on; `acestage.rpc_errors` carries them across
the wire.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import grpc

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room, or a file may not be so large."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its name, and what is wrong with it."""

    field: str
    description: str


class AcestageError(Exception):
    """Base of all errors of Acestage.

    Attributes:
        message: for people.
        metadata: facts for programs, such as the stage or the limit.
        retry_delay_s: when trying again may help, in seconds; None where it will not.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_delay_s = retry_delay_s


class InvalidArgumentError(AcestageError):
    """One or more fields of the request are wrong; `violations` lists all of them."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, violations: Iterable[FieldViolation] = (), **kwargs: object) -> None:
        super().__init__(message, **kwargs)  # type: ignore[arg-type]
        self.violations = tuple(violations)

    @classmethod
    def at(cls, field: str, description: str) -> InvalidArgumentError:
        """The error of one wrong field."""
        return cls.of([FieldViolation(field, description)])

    @classmethod
    def of(cls, violations: Iterable[FieldViolation]) -> InvalidArgumentError:
        """The error that says all of `violations`, which must not be empty."""
        found = tuple(violations)
        return cls("; ".join(f"{v.field}: {v.description}" for v in found), violations=found)

    def retold(self, tell: Callable[[FieldViolation], FieldViolation]) -> InvalidArgumentError:
        """The same in other words: each violation as `tell` says it."""
        if not self.violations:
            return InvalidArgumentError(self.message)
        return InvalidArgumentError.of(map(tell, self.violations))


class NotFoundError(AcestageError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class UnauthenticatedError(AcestageError):
    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class FailedPreconditionError(AcestageError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class CheckpointError(FailedPreconditionError):
    """Names the file, and the key where one is meant."""

    reason = "CHECKPOINT_INVALID"


class ExportError(FailedPreconditionError):
    """The disk is full, the folder is missing or not ours, or an encoder is not there."""

    reason = "EXPORT_FAILED"


class ResourceExhaustedError(AcestageError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class VramBudgetExceededError(ResourceExhaustedError):
    reason = "VRAM_BUDGET_EXCEEDED"


class DeviceShortageError(VramBudgetExceededError):
    """The work was planned to fit, but the device does not show as many free bytes.

    Attributes:
        missing_bytes: how many are not there; 0 where nobody said.
    """

    reason = "DEVICE_SHORTAGE"

    def __init__(
        self,
        message: str,
        *,
        missing_bytes: int = 0,
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, retry_delay_s=retry_delay_s)
        self.missing_bytes = missing_bytes


class QueueFullError(ResourceExhaustedError):
    reason = "QUEUE_FULL"


class AbortedError(AcestageError):
    code = grpc.StatusCode.ABORTED
    reason = "ABORTED"


class LeaseLostError(AbortedError):
    reason = "LEASE_LOST"


class StaleFencingTokenError(AbortedError):
    reason = "STALE_FENCING_TOKEN"


class UnavailableError(AcestageError):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class ServiceUnreachableError(UnavailableError):
    reason = "SERVICE_UNREACHABLE"


class WorkerCrashedError(UnavailableError):
    reason = "WORKER_CRASHED"


class WorkerStalledError(UnavailableError):
    reason = "WORKER_STALLED"


class DeviceQuarantinedError(UnavailableError):
    reason = "DEVICE_QUARANTINED"


class DeadlineExceededError(AcestageError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class DataLossError(AcestageError):
    code = grpc.StatusCode.DATA_LOSS
    reason = "DATA_LOSS"


class TensorCorruptError(DataLossError):
    reason = "TENSOR_CORRUPT"


class CancelledError(AcestageError):
    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class InternalError(AcestageError):
    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


class NonFiniteError(InternalError):
    """Names the stage, the data type, and where in the work it was; a wider type computes it."""

    reason = "NON_FINITE"


def error_classes() -> dict[str, type[AcestageError]]:
    """Every class of the tree by its `reason`."""
    found: dict[str, type[AcestageError]] = {}
    pending: list[type[AcestageError]] = [AcestageError]
    while pending:
        cls = pending.pop()
        found[cls.reason] = cls
        pending.extend(cls.__subclasses__())
    return found
