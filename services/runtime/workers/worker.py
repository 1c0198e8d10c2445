"""The worker process: the only one that touches the device.

It takes the device's lock, moves the weights, does one job after the other, and exits when it is told to.
Exiting is the point: nothing but the end of a process gives all memory of a device back.

Its first message is "hold" with the lease, the model and how to place its weights; it answers "placed". Then
comes a "job" after the other, each with a number and the request in it; the answers are the engine's messages
and then "done", or "error". A "kernels" before them says that kernels run another way from then on. "later"
with the number of a job brings more of its request, and "hurry" says that others wait for the device, so that
the job waits less for it. "cancel" with the number of a job ends that job, and "stop" the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch

from acestage import errors
from services.runtime.devices.device_lock import DeviceLock
from services.runtime.devices.device_usage import DeviceUsage, open_device_usage
from services.runtime.kernels.store import CompiledKernels
from services.runtime.processes import heap
from services.runtime.processes.parent_death import die_with_parent
from services.runtime.processes.tracebacks import let_go
from services.runtime.stage_config import StageConfig
from services.runtime.stage_worker import StageWorker
from services.runtime.weights.kept_weights import KeptWeights, place
from services.runtime.workers.messages import Message, error_message, pack, receive

if TYPE_CHECKING:
    from services.runtime.preload.models import StageModels

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 30.0
"""How long the worker waits for the device's lock."""

LATER_TIMEOUT_S = 30.0
"""How long a job may have the device and wait for more of its request, all in all: a sender that takes longer
is better off if it sends what it has once it has all."""

HURRIED_TIMEOUT_S = 5.0
"""The same once others wait for the device."""

_OUT_OF_MEMORY_SIGNS = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",  # cuDNN's from version 9 on
    # What libraries say that get no memory for their handle, and torch's convolutions by cuDNN, which try one
    # plan after the other and keep the errors of all to themselves (aten/src/ATen/native/cudnn/Conv_v8.cpp).
    # They may mean something else; then no smaller way helps, and the job fails with the same words.
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
)


class _Inbox:
    """Messages from the service, read by a thread so that a cancel is seen while the engine computes."""

    def __init__(self, connection: socket.socket) -> None:
        self._cancelled_job = 0
        self._hurried_job = 0
        self._stopped = False
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._later: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._connection = connection
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next_request(self) -> Message | None:
        """Waits for the next message but "cancel"; None once the worker is to stop."""
        return self._requests.get()

    def is_cancelled(self, job: int) -> bool:
        """Whether the work on `job` is to end."""
        return self._stopped or self._cancelled_job >= job

    def later(self, job: int) -> Iterator[Message]:
        """What comes of the request of `job`, each message as it is there; never ends.

        Raises:
            CancelledError: the job is to end.
            TimeoutError: all waits together took too long; says how long is accepted.
        """
        waited_s = 0.0
        while True:
            limit_s = HURRIED_TIMEOUT_S if self._hurried_job >= job else LATER_TIMEOUT_S
            start = time.monotonic()
            try:
                message = self._later.get(timeout=max(limit_s - waited_s, 0.0))
            except queue.Empty:
                raise TimeoutError(f"{limit_s:g} s") from None
            waited_s += time.monotonic() - start
            if self.is_cancelled(job):
                raise errors.CancelledError("the work was cancelled while it waited for more of its request")
            if message.kind == "later" and message.fields["number"] == job:
                yield message

    def forget_later(self) -> None:
        """Drops what came of a request that is done with."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._later.get_nowait()

    def _read(self) -> None:
        try:
            while True:
                self._sort(receive(self._connection))  # kept by no variable while the next one is waited for
        except BaseException:  # whatever it is, nobody else would hear the service from now on
            log.exception("the worker cannot read what the service sends")
            os._exit(1)

    def _sort(self, message: Message | None) -> None:
        if message is None:
            os._exit(1)  # the service is gone: nobody wants the result, and the device must be freed
        if message.kind == "stop":
            self._stopped = True
            self._later.put(message)  # wakes a job that waits
            self._requests.put(None)
        elif message.kind == "cancel":
            self._cancelled_job = message.fields["number"]
            self._later.put(message)
        elif message.kind == "hurry":
            self._hurried_job = message.fields["number"]
            self._later.put(message)
        elif message.kind == "later":
            self._later.put(message)
        else:
            self._requests.put(message)


def work(connection: socket.socket, models: StageModels, config: StageConfig, parent_pid: int) -> NoReturn:
    """Runs in a freshly forked process, until the service says stop; ends the process.

    Args:
        connection: to the service.
        models: all that it may place; the service says which.
        config: what the stage runs.
        parent_pid: the preload, with which this process ends.
    """
    die_with_parent(parent_pid, signal.SIGKILL)
    torch.set_num_threads(config.thread_count())
    heap.keep_freed_blocks()
    inbox = _Inbox(connection)
    exit_code = 0
    try:
        hold = inbox.next_request()
        if hold is not None:
            _hold(connection, inbox, models, config, hold)
    except errors.AcestageError as error:
        _send(connection, error_message(error))
    except Exception as error:  # the end of the process: whatever happened, the service must hear of it
        if not is_out_of_memory(error):
            log.exception("the worker failed")
            exit_code = 1
        _send(connection, error_message(error_of_failure(error, config)))
    sys.stderr.flush()
    os._exit(exit_code)  # no atexit handlers: those of the preload are not ours


def _hold(
    connection: socket.socket, inbox: _Inbox, models: StageModels, config: StageConfig, hold: Message
) -> None:
    """Has the device, and serves jobs on it."""
    model = hold.fields["model"]
    worker = models.workers[model]
    run_dir = Path(config.run_dir)
    lock = DeviceLock(
        run_dir,
        config.device,
        fencing_token=hold.fields["fencing_token"],
        is_exclusive=hold.fields["is_exclusive"],
        timeout_s=LOCK_TIMEOUT_S,
    )
    with lock, torch.no_grad():
        usage = open_device_usage(config.device, run_dir, config.stage)
        usage.cap(hold.fields["vram_bytes"], hold.fields["context_bytes"])
        with usage.counted():
            dtype = getattr(torch, hold.fields["dtype"])
            device = usage.torch_device
            cache_dir = Path(config.cache_dir)
            kernels = CompiledKernels(worker.kernels(device, dtype), cache_dir, device, dtype)
            kernels.look()  # before weights come, which kernels may quantize
            kept = KeptWeights(cache_dir, models.stamps[model], device, dtype)
            place(worker, kept, device, dtype, hold.fields["quantization"])
        _send(connection, Message("placed", {"kernels": kernels.word}))
        while (answer := _next_answer(connection, inbox, worker, config, usage, hold, kernels)) is not None:
            # By now nothing has the tensors of the request any more, nor those of the work on it.
            usage.trim()  # for as long as this worker may have to wait for the next job
            heap.trim()
            _send(connection, answer)


def _next_answer(
    connection: socket.socket,
    inbox: _Inbox,
    worker: StageWorker,
    config: StageConfig,
    usage: DeviceUsage,
    hold: Message,
    kernels: CompiledKernels,
) -> Message | None:
    """Waits for the next job and does it; what to answer, "done" or "error", or None once there are no more.

    An error of ours leaves the device as it was, so the worker can go on.
    """
    job = inbox.next_request()
    if job is None:
        return None
    start = time.monotonic()
    number = job.fields["number"]
    request = Message(job.fields["kind"], job.fields["fields"], job.tensors, inbox.later(number))
    usage.cap(job.fields["vram_bytes"], hold.fields["context_bytes"])
    if kernels.look():  # a warmup has made them while this worker was there
        _send(connection, Message("kernels", {"kernels": kernels.word}))
    try:
        with usage.counted():
            usage.start_job()
            for event in worker.run(request):
                usage.settle()  # what is told is done, and not only under way
                if inbox.is_cancelled(number):
                    raise errors.CancelledError(f"{config.stage}: the work was cancelled")
                _send(connection, event)
                usage.checkpoint()
    except errors.AcestageError as error:
        let_go(error)
        return error_message(error)
    finally:
        inbox.forget_later()
    report = {
        "compute_s": time.monotonic() - start,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": usage.peak_bytes(),
    }
    return Message("done", report)


def _send(connection: socket.socket, message: Message) -> None:
    connection.sendall(pack(message))


def error_of_failure(error: Exception, config: StageConfig) -> errors.AcestageError:
    """What a failure of the engine means to the caller."""
    metadata = {"stage": config.stage, "device": config.device}
    if is_out_of_memory(error):
        what = f"{config.stage} ran out of memory on {config.device}: {error}"
        return errors.VramBudgetExceededError(what, metadata=metadata)
    what = f"{config.stage} worker: {type(error).__name__}: {error}"
    return errors.WorkerCrashedError(what, metadata=metadata)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on any device.

    Torch's CPU allocator has no exception of its own for it, compiled kernels pass on none but the text of
    one, and CUDA's libraries allocate beside torch.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY_SIGNS
    )
