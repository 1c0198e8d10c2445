"""The preload process itself.

It never touches the device, starts no thread, and dies with the service that started it. The standard
library's forkserver is not used because it drops errors of the preload, says nothing when it is ready or
when a child dies, and exists once per process.

Over the control socket it receives `FORK`, each with one end of the new worker's socket, and sends "ready"
or "error" once, then "forked" and "exited" for every worker.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping

import torch

from acestage.errors import AcestageError, FailedPreconditionError
from services.runtime import logs
from services.runtime.messages import Message, error_message, pack
from services.runtime.preload.models import map_models
from services.runtime.preload.protocol import FORK
from services.runtime.stage_config import StageConfig
from services.runtime.stage_worker import StageWorker
from services.runtime.worker import work


def main(control_fd: int, config_json: str) -> None:
    """Serves the control socket until the service closes it."""
    # OpenMP threads started here would hang every forked worker.
    torch.set_num_threads(1)
    control = socket.socket(fileno=control_fd)
    config = StageConfig.from_json(config_json)
    logs.configure(f"{config.stage}/worker", config.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _check_torch(config)
        importlib.import_module(f"services.{config.stage}.worker")
        gc.freeze()  # modules stay: nobody need look through them again
        gc.enable()
        models = map_models(config)
    except AcestageError as error:
        control.sendall(pack(error_message(error)))
        sys.exit(1)
    gc.freeze()
    control.sendall(pack(Message("ready", models.facts.to_fields())))
    _serve(control, models.workers, config)


def _check_torch(config: StageConfig) -> None:
    if config.device.startswith("cuda") and torch.version.cuda is None:
        raise FailedPreconditionError(
            f"device: is {config.device}, but torch {torch.__version__} was built without CUDA; accepted: cpu"
        )


def _serve(control: socket.socket, workers: Mapping[str, StageWorker], config: StageConfig) -> None:
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_read, False)
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wakeup_read, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if wakeup_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup_read, 4096)
            _report_exits(control)
        if control in ready:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if data != FORK:
                return  # the service closed its end
            parent_pid = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                control.close()
                os.close(wakeup_read)
                os.close(wakeup_write)
                work(socket.socket(fileno=descriptors[0]), workers, config, parent_pid)
            os.close(descriptors[0])
            control.sendall(pack(Message("forked", {"pid": pid})))


def _report_exits(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.sendall(pack(Message("exited", {"pid": pid, "code": os.waitstatus_to_exitcode(status)})))
