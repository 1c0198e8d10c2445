"""Commands that start the services of one song: refused before that, failing with their log, leaving none."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import soundfile
from rich.console import Console

from acestage import Client
from acestage.cli.services import log_shown_on_error
from acestage.errors import AcestageError, CancelledError, InvalidArgumentError, WorkerCrashedError
from acestage.local_stack import free_ports
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, Fault
from tests.command_line import acestage
from tests.running_stack import wait_until

ROOT = Path(__file__).resolve().parents[2]


def own_services(tmp_path: Path) -> dict[str, str]:
    """Environment in which no service is found, so that `generate` starts its own."""
    return {
        "ACESTAGE_ORCHESTRATOR_PORT": str(free_ports()["orchestrator"]),
        "ACESTAGE_RUN_DIR": str(tmp_path / "run"),
        "ACESTAGE_DEVICE": "cpu",
    }


@pytest.mark.parametrize(
    ("output", "words"), [(".", "is a folder"), ("file/song.wav", "is not a folder"), ("x" * 300, "too long")]
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_started(
    tmp_path: Path, output: str, words: str
) -> None:
    (tmp_path / "file").touch()
    ended = acestage("generate", "x", "-o", output, cwd=tmp_path, **own_services(tmp_path))
    assert ended.returncode == 2
    assert "--output" in ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "starting them" not in ended.stderr


def test_the_demo_starts_services_for_one_run_whatever_the_folder_has_in_env(tmp_path: Path) -> None:
    """In a folder without the project: everything needed is installed."""
    (tmp_path / ".env").write_text("ACESTAGE_CHECKPOINT=/no/such/model\nACESTAGE_DEVICE=cuda:99\n")
    (demo,) = re.findall(r"^\t\$\(BIN\)/acestage (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    environment = own_services(tmp_path)
    del environment["ACESTAGE_DEVICE"]
    ended = acestage(*shlex.split(demo), cwd=tmp_path, **environment)
    assert ended.returncode == 0, ended.stderr
    assert f"No services run at 127.0.0.1:{environment['ACESTAGE_ORCHESTRATOR_PORT']}" in ended.stderr
    assert "services logged" not in ended.stderr
    assert soundfile.info(tmp_path / "out" / "demo.wav").frames == 480_000


def test_a_checkpoint_that_was_not_downloaded_is_told_before_services_are_started(tmp_path: Path) -> None:
    ended = acestage("generate", "x", "--checkpoint", "turbo", cwd=tmp_path, **own_services(tmp_path))
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith("CHECKPOINT_INVALID checkpoint 'turbo' not found")
    assert line.endswith("; download it with: acestage models pull turbo")


def test_a_failure_shows_what_the_services_of_this_run_logged(tmp_path: Path) -> None:
    # On a device where the DiT hangs: by itself a step may be fast on any machine.
    FakeDeviceSpec(4 << 30, (Fault("dit", "wedge"),)).write(tmp_path / "run", "fake:0")
    stalled = {"ACESTAGE_DEVICE": "fake:0", "ACESTAGE_PROGRESS_TIMEOUT": "4"}
    ended = acestage("generate", "x", "--duration", "10", cwd=tmp_path, **own_services(tmp_path) | stalled)
    assert ended.returncode == 1
    _, log_and_error = ended.stderr.split("The services logged last:\n")
    *log, error = log_and_error.splitlines()
    assert error.startswith("WORKER_STALLED")
    assert any("job failed" in line for line in log)


def test_an_interrupt_ends_the_services_of_this_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "acestage", "generate", "x", "--duration", "600", "--steps", "200"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | own_services(tmp_path), stderr=subprocess.PIPE, text=True
    )
    children: list[psutil.Process] = []

    def is_denoising() -> bool:
        children[:] = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            command = child.cmdline()
            if "services.orchestrator" in command:
                return holds_lease("dit", f"127.0.0.1:{command[command.index('--port') + 1]}")
        return False

    try:
        wait_until(is_denoising, "the DiT holds the device", 120)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        _, left = psutil.wait_procs(children, timeout=15)
        for child in left:
            child.kill()
    assert not left
    assert process.returncode == 130
    assert "Cancelled" in said
    assert "Traceback" not in said
    assert "services logged" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def holds_lease(stage: str, target: str) -> bool:
    try:
        with Client(target) as client:
            return any(lease.holder.startswith(stage) for lease in client.status(timeout_s=2.0).leases)
    except AcestageError:
        return False


def log_and_fail(error: BaseException, console: Console) -> None:
    with log_shown_on_error(console) as log_file:
        log_file.write(b"".join(b"line %d [/x]\n" % number for number in range(100)))
        raise error


def said_of(error: BaseException, path: Path) -> str:
    """What is printed where services logged 100 lines, and then `error` came."""
    with path.open("w") as file, pytest.raises(type(error)):
        log_and_fail(error, Console(file=file, markup=False))
    return path.read_text()


def test_of_a_long_log_the_last_lines_are_shown(tmp_path: Path) -> None:
    said = said_of(WorkerCrashedError("gone"), tmp_path / "said").splitlines()
    assert said == ["The services logged last:", *(f"line {number} [/x]" for number in range(60, 100))]


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("duration_s"), CancelledError("by the user"), KeyboardInterrupt()]
)
def test_no_log_is_shown_where_the_services_are_not_at_fault(tmp_path: Path, error: BaseException) -> None:
    assert said_of(error, tmp_path / "said") == ""
