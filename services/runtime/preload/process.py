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
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch

from acestage.errors import AcestageError
from acestage.generation import STAGES
from services.runtime.preload.forking import ForkServer
from services.runtime.preload.models import StageModels, map_models
from services.runtime.preload.protocol import FORK
from services.runtime.preload.torch_build import check_torch
from services.runtime.processes import logs
from services.runtime.stage_config import StageConfig
from services.runtime.workers.messages import Message, error_message, pack
from services.runtime.workers.worker import work


def import_stages() -> None:
    """Imports what the preloads of all stages need, for a process that forks them."""
    torch.set_num_threads(1)
    with _no_cuda():
        for stage in STAGES:
            importlib.import_module(f"services.{stage}.worker")


def main(control_fd: int, config_json: str) -> None:
    """Serves the control socket until the service closes it."""
    # OpenMP threads started here would hang every forked worker.
    torch.set_num_threads(1)
    control = socket.socket(fileno=control_fd)
    config = StageConfig.from_json(config_json)
    logs.configure(f"{config.stage}/worker", config.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        check_torch(config.device)
        with _no_cuda():
            importlib.import_module(f"services.{config.stage}.worker")
        gc.freeze()  # modules stay: nobody need look through them again
        gc.enable()
        models = map_models(config)
    except AcestageError as error:
        control.sendall(pack(error_message(error)))
        sys.exit(1)
    gc.freeze()
    control.sendall(pack(Message("ready", models.facts.to_fields())))
    _serve(control, models, config)


@contextlib.contextmanager
def _no_cuda() -> Iterator[None]:
    """Within, there is no CUDA device for who looks for one, as libraries do when they are imported.

    Looking initializes CUDA in this process, and then no process that it forks can use it. A library may keep
    the answer; none of those here goes by it later.
    """
    is_available = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = is_available


def _serve(control: socket.socket, models: StageModels, config: StageConfig) -> None:
    own_pid = os.getpid()

    def run(request: bytes, descriptors: Sequence[int]) -> NoReturn:
        work(socket.socket(fileno=descriptors[0]), models, config, own_pid)

    def forked(pid: int, descriptors: Sequence[int]) -> None:
        os.close(descriptors[0])
        control.sendall(pack(Message("forked", {"pid": pid})))

    def exited(pid: int, code: int) -> None:
        control.sendall(pack(Message("exited", {"pid": pid, "code": code})))

    def failed(error: OSError) -> NoReturn:
        raise error  # the stage starts another preload

    ForkServer(control, len(FORK), 1, run, forked, exited, failed).serve()
