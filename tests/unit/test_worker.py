"""What a worker hears from the service, and what its failures mean to the caller."""

from __future__ import annotations

import os
import socket

import pytest
import torch

from acestage.errors import CancelledError, VramBudgetExceededError, WorkerCrashedError
from services.runtime import worker
from services.runtime.messages import Message, pack
from services.runtime.stage_config import StageConfig
from services.runtime.worker import _Inbox, is_out_of_memory, to_error

CONFIG = StageConfig(
    stage="dit",
    checkpoints=("tiny-turbo",),
    checkpoints_dir="checkpoints",
    variant=None,
    device="cpu",
    dtype="auto",
    run_dir="/nowhere",
    log_level="INFO",
)


def failed_allocation() -> Exception:
    """The real error of torch's CPU allocator."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    return caught.value


@pytest.mark.parametrize(
    "error", [failed_allocation(), torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory")]
)
def test_running_out_of_memory_is_told_as_such_on_every_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    told = to_error(error, CONFIG)
    assert isinstance(told, VramBudgetExceededError)
    assert "dit ran out of memory on cpu" in told.message


def test_any_other_failure_is_a_crash_that_says_what_happened() -> None:
    told = to_error(RuntimeError("shapes differ"), CONFIG)
    assert isinstance(told, WorkerCrashedError)
    assert told.message == "dit worker: RuntimeError: shapes differ"


def inbox() -> tuple[_Inbox, int]:
    """An inbox, and the service's end of its socket, which is never closed: that would end the process."""
    ours, theirs = socket.socketpair()
    return _Inbox(theirs), ours.detach()


def tell(service: int, *messages: Message) -> None:
    os.write(service, b"".join(map(pack, messages)))


def later_message(job: int, what: str = "") -> Message:
    return Message("later", {"number": job, "what": what})


def test_what_comes_later_is_waited_for_and_what_is_of_another_job_left_out() -> None:
    box, service = inbox()
    later = box.later(2)
    tell(service, later_message(1, "stale"), later_message(2, "first"), later_message(2, "second"))
    assert [next(later).fields["what"], next(later).fields["what"]] == ["first", "second"]


def test_a_job_that_waits_is_cancelled() -> None:
    box, service = inbox()
    tell(service, Message("cancel", {"number": 1}))
    with pytest.raises(CancelledError):
        next(box.later(1))
    tell(service, later_message(2, "next"))
    assert next(box.later(2)).fields["what"] == "next"


def test_a_job_waits_for_its_sender_no_longer_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LATER_TIMEOUT_S", 0.01)
    box, _ = inbox()
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        next(box.later(1))


def test_what_came_of_a_job_that_is_done_is_forgotten() -> None:
    box, service = inbox()
    tell(service, later_message(1, "unused"), Message("job", {"number": 2}))
    assert box.next_request() == Message("job", {"number": 2})
    box.forget_later()
    tell(service, later_message(1, "new"))
    assert next(box.later(1)).fields["what"] == "new"
