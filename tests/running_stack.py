"""`acestage up` as a child process of the tests, on free ports and with a run folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from acestage import Client
from acestage.errors import AcestageError
from acestage.local_stack import free_ports
from acestage.protos.lease.v1 import lease_pb2, lease_pb2_grpc

START_TIMEOUT_S = 120.0
THREADS = 1
"""Of a worker: the embedded model is too small to gain from more. Sums depend on it in their last bits."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Polls `condition`; fails the test where it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {timeout_s:.0f} s: {what}"
        threading.Event().wait(0.05)


@dataclass
class RunningStack:
    """Services that run.

    Attributes:
        process: `acestage up`.
        ports: the port of each service.
        log_path: what all of them logged.
    """

    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    log_path: Path

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        checkpoint: str | Path,
        folder: Path,
        *,
        device: str = "cpu",
        flags: Sequence[str] = (),
        **environment: str,
    ) -> Iterator[RunningStack]:
        """Starts the services and waits until they serve; ends them, and checks that none is left.

        Args:
            checkpoint: what they run.
            folder: for the log and the run folder.
            device: where they run it.
            flags: more of `acestage up`.
            **environment: more variables.
        """
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports()
        port_flags = [f"--{name.replace('_', '-')}-port={port}" for name, port in ports.items()]
        command = [sys.executable, "-m", "acestage", "up", f"--checkpoint={checkpoint}", *port_flags, *flags]
        variables = {
            "ACESTAGE_RUN_DIR": str(folder / "run"),
            "ACESTAGE_TMPDIR": str(folder / "tmp"),
            "ACESTAGE_THREADS": str(THREADS),
            "ACESTAGE_DOORS": "none",
        }
        log_path = folder / "up.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--device={device}"],
                stdout=log,
                stderr=log,
                env=os.environ | variables | environment,
            )
        stack = cls(process, ports, log_path)
        try:
            wait_until(
                lambda: stack.is_up() or process.poll() is not None, "services are up", START_TIMEOUT_S
            )
            assert process.poll() is None, stack.log()
            yield stack
        finally:
            stack.stop()

    @property
    def target(self) -> str:
        return self.address("orchestrator")

    def address(self, service: str) -> str:
        return f"127.0.0.1:{self.ports[service]}"

    def client(self) -> Client:
        return Client(self.target)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def is_up(self) -> bool:
        return "Up. The orchestrator answers" in self.log()

    def is_serving(self) -> bool:
        """Whether the orchestrator and all stages answer."""
        try:
            with self.client() as client:
                return all(stage.is_serving for stage in client.status(timeout_s=2.0).stages)
        except AcestageError:
            return False

    def is_idle(self) -> bool:
        """Whether nothing runs or waits; a stage may keep its weights on the device."""
        with self.client() as client:
            status = client.status()
        busy = status.queue.running_count or status.queue.queued_count
        held = [lease for lease in status.leases if not (lease.is_idle and lease.state == "active")]
        return not (busy or held or status.waiters or any(s.active_job_count for s in status.stages))

    def take_device(self, device: str) -> None:
        """Asks for all of `device`, as another program may, and gives it back: idle stages leave it."""
        with grpc.insecure_channel(self.target) as channel:
            stub = lease_pb2_grpc.LeaseServiceStub(channel)
            (known,) = (
                entry
                for entry in stub.ListLeases(lease_pb2.ListLeasesRequest()).devices
                if entry.device == device
            )
            request = lease_pb2.AcquireLeaseRequest(
                device=device, holder="test", vram_bytes=known.total_bytes
            )
            *_, last = stub.AcquireLease(request, timeout=60)
            lease = last.granted.lease
            stub.ReleaseLease(
                lease_pb2.ReleaseLeaseRequest(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
            )

    def family(self) -> list[psutil.Process]:
        """`up` and all processes below it that live."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def find(self, *words: str) -> psutil.Process:
        """The one process below `up` whose command line has all of `words`."""
        (found,) = [p for p in self.family() if all(word in " ".join(p.cmdline()) for word in words)]
        return found

    def preload(self, stage: str) -> psutil.Process:
        """The preload process of `stage`; its workers, which it forked, have the same command line."""
        word = f'"stage": "{stage}"'
        (found,) = (
            process
            for process in self.family()
            if word in " ".join(process.cmdline()) and word not in " ".join(_parent(process).cmdline())
        )
        return found

    def worker(self, stage: str) -> psutil.Process:
        """The worker of `stage`."""
        (found,) = self.preload(stage).children()
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends `number` to `up` and checks that it and everything below it is gone soon."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(30)
        _, alive = psutil.wait_procs(family, timeout=15)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {[p.cmdline() for p in alive]}\n{self.log()}"


def _parent(process: psutil.Process) -> psutil.Process:
    parent = process.parent()
    assert parent is not None
    return parent
