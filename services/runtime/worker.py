"""The worker process: the only one that touches the device. It does one job and exits.

Exiting is the point: nothing but the end of a process gives all memory of a device back.
"""

from __future__ import annotations

import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import torch

from acestage import errors
from services.runtime.device_lock import DeviceLock
from services.runtime.messages import Message, error_message, pack, receive
from services.runtime.parent_death import die_with_parent
from services.runtime.stage_config import StageConfig
from services.runtime.stage_worker import StageWorker

log = logging.getLogger(__name__)


class _Inbox:
    """Messages from the service, read by a thread so that a cancel is seen while the engine computes."""

    def __init__(self, connection: socket.socket) -> None:
        self.cancelled = threading.Event()
        self._requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._connection = connection
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next_request(self) -> Message:
        return self._requests.get()

    def _read(self) -> None:
        while True:
            message = receive(self._connection)
            if message is None:
                os._exit(1)  # the service is gone: nobody wants the result, and the device must be freed
            if message.kind == "cancel":
                self.cancelled.set()
            else:
                self._requests.put(message)


def work(
    connection: socket.socket, worker: StageWorker, config: StageConfig, dtype: str, parent_pid: int
) -> NoReturn:
    """Runs in a freshly forked process: takes one request, answers it, and ends the process."""
    die_with_parent(parent_pid, signal.SIGKILL)
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    inbox = _Inbox(connection)
    exit_code = 0
    try:
        request = inbox.next_request()
        with DeviceLock(Path(config.run_dir), config.device, timeout_s=config.lock_timeout_s):
            _run(connection, inbox, worker, config, dtype, request)
    except errors.AcestageError as error:
        _send(connection, error_message(error))
    except Exception as error:  # the end of the process: whatever happened, the service must hear of it
        if not is_out_of_memory(error):
            log.exception("the worker failed")
            exit_code = 1
        _send(connection, error_message(to_error(error, config)))
    sys.stderr.flush()
    os._exit(exit_code)  # no atexit handlers: those of the preload are not ours


def _run(
    connection: socket.socket,
    inbox: _Inbox,
    worker: StageWorker,
    config: StageConfig,
    dtype: str,
    request: Message,
) -> None:
    device = torch.device(config.device)
    start = time.monotonic()
    with torch.no_grad():
        worker.place(device, getattr(torch, dtype), "none")
        loaded = time.monotonic()
        _send(connection, Message("placed"))
        for event in worker.run(request):
            if inbox.cancelled.is_set():
                raise errors.CancelledError(f"{config.stage}: the work was cancelled")
            _send(connection, event)
    peak_device_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    report = {
        "load_s": loaded - start,
        "compute_s": time.monotonic() - loaded,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": peak_device_bytes,
    }
    _send(connection, Message("done", report))


def _send(connection: socket.socket, message: Message) -> None:
    connection.sendall(pack(message))


def to_error(error: Exception, config: StageConfig) -> errors.AcestageError:
    """What a failure of the engine means to the caller."""
    metadata = {"stage": config.stage, "device": config.device}
    if is_out_of_memory(error):
        what = f"{config.stage} ran out of memory on {config.device}: {error}"
        return errors.VramBudgetExceededError(what, metadata=metadata)
    what = f"{config.stage} worker: {type(error).__name__}: {error}"
    return errors.WorkerCrashedError(what, metadata=metadata)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on any device: torch's CPU allocator has no exception of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
