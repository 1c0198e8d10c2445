"""`python -m services.gateway` as a child process of the tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.running_stack import wait_until

START_TIMEOUT_S = 60.0


@dataclass
class RunningGateway:
    """A gateway that runs.

    Attributes:
        process: the gateway.
        log_path: what it logged.
    """

    process: subprocess.Popen[bytes]
    log_path: Path

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, target: str, folder: Path, *, doors: str = "rest", flags: Sequence[str] = (), **environment: str
    ) -> Iterator[RunningGateway]:
        """Starts a gateway to the orchestrator at `target`, with its outputs and log in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "services.gateway", f"--orchestrator={target}", f"--doors={doors}"]
        command += ["--rest-port=0", "--page-port=0", f"--output-dir={folder / 'outputs'}", *flags]
        variables = {"ACESTAGE_TMPDIR": str(folder / "tmp")}
        log_path = folder / "gateway.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | variables | environment
            )
        gateway = cls(process, log_path)
        try:
            wait_until(lambda: gateway._is_up(doors), "the gateway listens", START_TIMEOUT_S)
            yield gateway
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0, gateway.log()

    def url(self, door: str = "rest") -> str:
        """Where `door` answers."""
        (address,) = re.findall(rf"listening: {door} .*address=(\S+)", self.log())
        return str(address)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _is_up(self, doors: str) -> bool:
        assert self.process.poll() is None, self.log()
        return self.log().count("listening: ") == (2 if doors == "both" else 1)
