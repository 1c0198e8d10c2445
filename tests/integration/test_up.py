"""`acestage up` ends cleanly however it ends, and leaves no process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from acestage.errors import AcestageError
from acestage.generation import GenerationEvent, StageProgress
from acestage.local_stack import free_ports
from scripts.random_checkpoint import write_checkpoint
from tests.running_stack import RunningStack, wait_until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_in_the_middle_of_a_job(tmp_path: Path, number: signal.Signals) -> None:
    with RunningStack.start("tiny-turbo", tmp_path) as stack:
        error = end_while_denoising(stack, number)
    assert error.code.name in ("CANCELLED", "UNAVAILABLE")
    expected = 0 if number in (signal.SIGINT, signal.SIGTERM) else -number
    assert stack.process.returncode == expected


def end_while_denoising(stack: RunningStack, number: signal.Signals) -> AcestageError:
    """Sends `number` to `up` in the middle of a job; returns the job's error."""
    denoising = threading.Event()
    errors: list[AcestageError] = []

    def on_event(event: GenerationEvent) -> None:
        if isinstance(event, StageProgress):
            denoising.set()

    def generate() -> None:
        with stack.client() as client, pytest.raises(AcestageError) as caught:
            client.generate("piano", duration_s=300, step_count=200, on_event=on_event)
        errors.append(caught.value)

    job = threading.Thread(target=generate)
    job.start()
    assert denoising.wait(60)
    # up, services, the template of preloads, these, and the workers of the DiT and of the text encoder, which
    # is done but stays
    assert len(stack.family()) == 1 + 4 + 1 + 3 + 2
    stack.stop(number)  # asserts that nothing is left
    job.join(30)
    return errors[0]


# With the services there is the template, which imports for seconds, and then the preloads, which map.
@pytest.mark.parametrize(
    ("number", "process_count"), [(signal.SIGINT, 1 + 4 + 1), (signal.SIGKILL, 1 + 4 + 1 + 3)]
)
def test_an_end_during_the_start_leaves_nothing(
    tmp_path: Path, number: signal.Signals, process_count: int
) -> None:
    ports = free_ports()
    flags = [f"--{name.replace('_', '-')}-port={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "acestage", "up", "--device=cpu", *flags]
    environment = os.environ | {"ACESTAGE_RUN_DIR": str(tmp_path / "run"), "ACESTAGE_DOORS": "none"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    stack = RunningStack(process, ports, tmp_path / "log")
    wait_until(lambda: len(stack.family()) >= process_count, "the services are being started")
    stack.stop(number)
    assert process.returncode == (0 if number is signal.SIGINT else -number)
    left = [
        p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []
    assert "Traceback" not in stack.log()


def run_up(
    tmp_path: Path, *flags: str, ports: dict[str, int] | None = None
) -> subprocess.CompletedProcess[str]:
    """`acestage up` that is expected to end by itself."""
    port_flags = [f"--{n.replace('_', '-')}-port={p}" for n, p in (ports or free_ports()).items()]
    return subprocess.run(
        [sys.executable, "-m", "acestage", "up", "--device=cpu", *port_flags, *flags],
        env=os.environ | {"ACESTAGE_RUN_DIR": str(tmp_path / "run"), "ACESTAGE_DOORS": "none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_damaged_checkpoint_ends_the_start_with_file_and_key(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "damaged")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    ended = run_up(tmp_path, f"--checkpoint={folder}")
    assert ended.returncode == 1
    assert "CHECKPOINT_INVALID" in ended.stderr
    assert str(weights) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_checkpoint_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    ended = run_up(tmp_path, "--checkpoint=no-such-model")
    assert ended.returncode == 1
    assert "no-such-model" in ended.stderr


def test_a_checkpoint_that_was_not_downloaded_is_told_once_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACESTAGE_CHECKPOINTS_DIR", str(tmp_path))
    ended = run_up(tmp_path, "--checkpoint=turbo")
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith("CHECKPOINT_INVALID checkpoint 'turbo' not found")
    assert line.endswith("; download it with: acestage models pull turbo")


def test_a_taken_port_ends_the_start_and_is_named(tmp_path: Path) -> None:
    ports = free_ports()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports["vae"]))
        listener.listen()
        ended = run_up(tmp_path, ports=ports)
    assert ended.returncode == 1
    assert f"cannot bind 127.0.0.1:{ports['vae']}" in ended.stderr


def test_a_second_stack_on_the_same_ports_is_refused_and_the_first_lives_on(
    turbo_stack: RunningStack, tmp_path: Path
) -> None:
    ended = run_up(tmp_path, ports=turbo_stack.ports)
    assert ended.returncode == 1
    assert f"cannot bind {turbo_stack.target}" in ended.stderr
    assert "Up." not in ended.stderr
    assert turbo_stack.is_serving()


def test_a_device_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    ended = run_up(tmp_path, "--device=cuda:63")
    assert ended.returncode == 1
    assert "cuda:63" in ended.stderr
    assert "accepted here: cpu" in ended.stderr


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    ended = run_up(tmp_path, "--dtype=int3")
    assert ended.returncode == 2
    assert "dtype" in ended.stderr
    assert "int3" in ended.stderr
