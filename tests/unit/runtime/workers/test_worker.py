"""What a worker hears from the service, and what its failures mean to the caller."""

from __future__ import annotations

import dataclasses
import itertools
import os
import queue
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from acestage.errors import (
    CancelledError,
    InvalidArgumentError,
    VramBudgetExceededError,
    WorkerCrashedError,
)
from acestage.tensors import WireTensor
from services.runtime.devices.device_usage import DeviceUsage
from services.runtime.kernels.kernel import Kernel
from services.runtime.preload.facts import PreloadFacts
from services.runtime.preload.models import StageModels
from services.runtime.stage_config import StageConfig
from services.runtime.workers import worker
from services.runtime.workers.messages import Message, pack, receive
from services.runtime.workers.worker import _Inbox, error_of_failure, is_out_of_memory

CONFIG = StageConfig(
    stage="dit",
    checkpoints=("tiny-turbo",),
    checkpoints_dir="checkpoints",
    variant=None,
    device="cpu",
    dtype="auto",
    run_dir="/nowhere",
    cache_dir="/nowhere",
    log_level="INFO",
)


def failed_allocation() -> Exception:
    """The real error of torch's CPU allocator."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        failed_allocation(),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("no memory"),
        # In a compiled kernel, on the way to a kernel of CUDA, and in libraries.
        RuntimeError("run_func_(...) API call failed at model_container_runner.cpp: CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_running_out_of_memory_is_told_as_such_on_every_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    told = error_of_failure(error, CONFIG)
    assert isinstance(told, VramBudgetExceededError)
    assert "dit ran out of memory on cpu" in told.message


def test_any_other_failure_is_a_crash_that_says_what_happened() -> None:
    told = error_of_failure(RuntimeError("shapes differ"), CONFIG)
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


def test_a_worker_that_cannot_hear_its_service_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(worker, "os", SimpleNamespace(_exit=codes.put))
    box, service = inbox()
    with box._connection:
        os.write(service, b"\xff" * 64)  # no header is so long
        assert codes.get(timeout=10) == 1


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


def test_all_waits_of_a_job_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=20.0)
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    box, service = inbox()
    later = box.later(1)
    tell(service, later_message(1, "first"), later_message(1, "second"))
    assert [next(later).fields["what"] for _ in range(2)] == ["first", "second"]  # 20 s each
    with pytest.raises(TimeoutError, match="30 s"):
        next(later)


def test_a_job_waits_less_once_others_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "HURRIED_TIMEOUT_S", 0.01)
    box, service = inbox()
    tell(service, Message("hurry", {"number": 1}))
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        next(box.later(1))
    tell(service, later_message(2, "of the next job"))
    assert next(box.later(2)).fields["what"] == "of the next job"


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


class Watched:
    """A worker whose job takes tensors, and a device's usage that looks at a trim for what is still there."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.kept: list[Callable[[], object]] = []
        self.alive_count: list[int] = []

    def run(self, request: Message) -> Iterator[Message]:
        state = torch.zeros(4)
        data = request.tensors[0].data
        assert isinstance(data, memoryview)
        self.kept += [weakref.ref(state), weakref.ref(data)]
        yield Message("step")
        if self.fails:
            error = InvalidArgumentError.at("tensor", "is not finite")
            raise error  # from a variable, which makes a cycle

    def place(self, *args: object) -> None:
        pass

    def prepared_weights(self, quantization: str) -> None:
        return None

    def kernels(self, device: torch.device, dtype: torch.dtype) -> tuple[Kernel, ...]:
        return ()

    def trim(self) -> None:
        self.alive_count.append(sum(kept() is not None for kept in self.kept))


@pytest.mark.parametrize("fails", [False, True])
def test_a_trim_finds_nothing_of_the_job(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(fails=fails)
    usage = DeviceUsage()
    monkeypatch.setattr(worker, "open_device_usage", lambda *_: usage)
    box, service = inbox()

    def trim() -> None:
        watched.trim()
        tell(service, Message("stop"))

    usage.trim = trim  # type: ignore[method-assign]
    fields = {"number": 1, "vram_bytes": 0, "kind": "denoise", "fields": {}}
    job = Message("job", fields, (WireTensor("x", "float32", (1,), bytes(4)),))
    hold = {"fencing_token": 1, "is_exclusive": False, "vram_bytes": 0, "context_bytes": 0}
    hold |= {"model": "tiny-turbo", "dtype": "float32", "quantization": "none"}
    tell(service, job)
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    models = StageModels(PreloadFacts({}), {"tiny-turbo": cast(Any, watched)}, {"tiny-turbo": {}})
    worker._hold(box._connection, box, models, config, Message("hold", hold))
    with socket.socket(fileno=os.dup(service)) as peer:
        answers = [message for _ in range(3) if (message := receive(peer)) is not None]
    assert [answer.kind for answer in answers] == ["placed", "step", "error" if fails else "done"]
    assert answers[0].fields["kernels"] == ""  # it has none
    assert watched.alive_count == [0]
