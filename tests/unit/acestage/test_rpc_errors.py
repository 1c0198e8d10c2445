"""Errors keep their class, message, violations and details across the wire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import code_pb2
from grpc_status import rpc_status

from acestage import errors
from acestage.rpc_errors import MAX_MESSAGE_BYTES, MAX_STATUS_BYTES, from_rpc_error, to_status


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


CLASSES = sorted(
    (cls for cls in errors.error_classes().values() if cls.__module__ == errors.__name__),
    key=lambda cls: cls.__name__,
)
"""Those that cross a wire: a service may have more of its own, if a test imports it."""


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not errors.AcestageError])
def test_every_class_survives(cls: type[errors.AcestageError]) -> None:
    received = over_the_wire(cls("what happened", metadata={"stage": "dit"}, retry_delay_s=1.5))
    assert type(received) is cls
    assert received.message == "what happened"
    assert received.metadata == {"stage": "dit"}
    assert received.retry_delay_s == 1.5


def test_who_says_nothing_has_not_answered() -> None:
    status = rpc_status._Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", None)
    error = from_rpc_error(FakeCall(status), target="dit at x:1")  # type: ignore[arg-type]
    assert isinstance(error, errors.DeadlineExceededError)
    assert (error.message, error.metadata) == ("dit at x:1 did not answer in time", {"target": "dit at x:1"})


def test_violations_survive() -> None:
    violations = (errors.FieldViolation("duration_s", "is 0"), errors.FieldViolation("bpm", "is 1"))
    received = over_the_wire(errors.InvalidArgumentError.of(violations))
    assert isinstance(received, errors.InvalidArgumentError)
    assert received.violations == violations
    assert received.message == "duration_s: is 0; bpm: is 1"


@pytest.mark.parametrize("character", ["x", "é", "ダ", "🎵"])
def test_a_monstrous_error_fits_into_metadata(character: str) -> None:
    text = character * 100_000
    violations = [errors.FieldViolation(f"{index}{text}", text) for index in range(1_000)]
    metadata = {f"{index}{text}": text for index in range(100)}
    error = errors.InvalidArgumentError(text, violations=violations, metadata=metadata, retry_delay_s=1.5)
    status = to_status(error)
    assert status.ByteSize() <= MAX_STATUS_BYTES
    assert len(status.message.encode()) <= MAX_MESSAGE_BYTES
    received = over_the_wire(error)
    assert isinstance(received, errors.InvalidArgumentError)
    assert received.message.startswith(character)
    assert received.message.endswith("…")
    assert received.retry_delay_s == 1.5


def test_as_many_violations_as_fit_survive() -> None:
    violations = tuple(errors.FieldViolation(f"field_{index}", "x" * 1_000) for index in range(100))
    received = over_the_wire(errors.InvalidArgumentError.of(violations))
    assert isinstance(received, errors.InvalidArgumentError)
    fields = [violation.field for violation in received.violations]
    assert fields == [violation.field for violation in violations[: len(fields)]]
    assert len(fields) >= 5
    assert all(violation.description == "x" * 297 + "…" for violation in received.violations)


def test_a_cut_error_stays_the_same_when_it_is_passed_on() -> None:
    once = over_the_wire(errors.InternalError("é" * 5_000, metadata={"stage": "y" * 500}))
    twice = over_the_wire(once)
    assert (twice.message, twice.metadata) == (once.message, once.metadata)


def test_the_largest_status_passes_a_real_server() -> None:
    error = errors.InvalidArgumentError.of(
        errors.FieldViolation("ダ" * 100_000, "ダ" * 100_000) for _ in range(100)
    )

    def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(rpc_status.to_status(to_status(error)))
        raise AssertionError("abort_with_status raises")

    handler = grpc.method_handlers_generic_handler(
        "test.Test", {"Call": grpc.unary_unary_rpc_method_handler(refuse)}
    )
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            always_at_8_kib = [("grpc.absolute_max_metadata_size", 8192)]  # by default above it by chance
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", always_at_8_kib)
            with channel, pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/test.Test/Call")(b"", timeout=10)
        finally:
            server.stop(None).wait(10)
    assert isinstance(from_rpc_error(caught.value, target="test"), errors.InvalidArgumentError)


def test_reasons_are_unique_and_codes_are_set() -> None:
    assert len({cls.reason for cls in CLASSES}) == len(CLASSES)
    for cls in CLASSES:
        assert code_pb2.Code.Value(cls.code.name) == cls.code.value[0]
