"""Frames between a service and its workers."""

from __future__ import annotations

import socket

import pytest
import torch

from acestage import errors
from acestage.tensors import WireTensor
from services.runtime.workers.messages import Message, error_message, pack, receive, to_error


def over_a_socket(*frames: bytes) -> list[Message | None]:
    left, right = socket.socketpair()
    with left, right:
        for frame in frames:
            left.sendall(frame)
        left.close()
        received = [receive(right)]
        while received[-1] is not None:
            received.append(receive(right))
        return received


def test_messages_and_their_tensors_arrive_whole_and_in_order() -> None:
    a, b = torch.randn(3, 4), torch.randn(2, 5, dtype=torch.bfloat16)
    message = Message("run", {"steps": 8}, (WireTensor.from_torch("a", a), WireTensor.from_torch("b", b)))
    first, second, end = over_a_socket(pack(message), pack(Message("cancel")))
    assert first is not None
    assert first.kind == "run"
    assert first.fields == {"steps": 8}
    assert torch.equal(first.tensor_map()["a"].to_torch(), a)
    assert torch.equal(first.tensor_map()["b"].to_torch(), b)
    assert second == Message("cancel")
    assert end is None


def test_a_peer_that_dies_within_a_message_is_an_end() -> None:
    assert over_a_socket(pack(Message("run", {"x": "y" * 100}))[:50]) == [None]


@pytest.mark.parametrize(
    "error",
    [
        errors.WorkerCrashedError("gone", metadata={"stage": "vae"}, retry_delay_s=2.0),
        errors.InvalidArgumentError.of([errors.FieldViolation("shift", "is 0")]),
    ],
)
def test_errors_keep_their_class_and_details(error: errors.AcestageError) -> None:
    (received, _) = over_a_socket(pack(error_message(error)))
    assert received is not None
    rebuilt = to_error(received)
    assert type(rebuilt) is type(error)
    assert (rebuilt.message, rebuilt.metadata, rebuilt.retry_delay_s) == (
        error.message,
        error.metadata,
        error.retry_delay_s,
    )
    assert getattr(rebuilt, "violations", None) == getattr(error, "violations", None)
