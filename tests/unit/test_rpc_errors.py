"""Errors keep their class, message, violations and details across the wire."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2
from grpc_status import rpc_status

from acestage import errors
from acestage.rpc_errors import from_rpc_error, to_status


class FakeCall(Exception):
    """What grpc raises, as far as we look at it."""

    def __init__(self, status: rpc_status._Status) -> None:
        self._status = status

    def code(self) -> object:
        return self._status.code

    def details(self) -> str:
        return self._status.details

    def trailing_metadata(self) -> object:
        return self._status.trailing_metadata


def over_the_wire(error: errors.AcestageError) -> errors.AcestageError:
    return from_rpc_error(FakeCall(rpc_status.to_status(to_status(error))), target="dit at x:1")  # type: ignore[arg-type]


CLASSES = sorted(errors.error_classes().values(), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not errors.AcestageError])
def test_every_class_survives(cls: type[errors.AcestageError]) -> None:
    received = over_the_wire(cls("what happened", metadata={"stage": "dit"}, retry_delay_s=1.5))
    assert type(received) is cls
    assert received.message == "what happened"
    assert received.metadata == {"stage": "dit"}
    assert received.retry_delay_s == 1.5


def test_violations_survive() -> None:
    violations = (errors.FieldViolation("duration_s", "is 0"), errors.FieldViolation("bpm", "is 1"))
    received = over_the_wire(errors.InvalidArgumentError.of(violations))
    assert isinstance(received, errors.InvalidArgumentError)
    assert received.violations == violations
    assert received.message == "duration_s: is 0; bpm: is 1"


def test_reasons_are_unique_and_codes_are_set() -> None:
    assert len({cls.reason for cls in CLASSES}) == len(CLASSES)
    for cls in CLASSES:
        assert code_pb2.Code.Value(cls.code.name) == cls.code.value[0]
