"""`acestage warmup`, and the same behind `acestage up`, with a compiler that is missing or never done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from shlex import quote

import psutil
import pytest
import torch

from acestage.settings import load_settings
from acestage.warmup import warmup_command
from services.dit.kernels import KERNELS as DIT_KERNELS
from services.runtime.kernels.store import kernel_path, kernels_folder
from services.runtime.processes.low_priority import LOWEST_PRIORITY
from services.vae.kernels import KERNELS as VAE_KERNELS
from tests.known_measurements import with_known_measurements
from tests.running_stack import RunningStack, wait_until

CPU = torch.device("cpu")
NO_COMPILER = "no-such-compiler"


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    """A compiler that says with the file `busy` beside it that it was called, and never ends.

    It starts nothing once it is `busy`: a signal just then would miss what a shell is about to start.
    """
    busy, never = tmp_path / "busy", tmp_path / "never"
    os.mkfifo(never)
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n: > {quote(str(busy))}\nread line <> {quote(str(never))}\n")
    path.chmod(0o700)
    return path


def warmup_environment(cache_dir: Path, compiler: str | Path) -> dict[str, str]:
    return {"ACESTAGE_CACHE_DIR": str(cache_dir), "ACESTAGE_DTYPE": "float32", "CXX": str(compiler)}


def warmup(cache_dir: Path, compiler: str | Path = NO_COMPILER) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "acestage", "warmup", "--device=cpu"],
        env=os.environ | warmup_environment(cache_dir, compiler),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_behind(cache_dir: Path) -> list[Path]:
    """What is in the cache but measurements and prepared weights, which are the stages'."""
    files = [path.relative_to(cache_dir) for path in cache_dir.rglob("*") if path.is_file()]
    return [file for file in files if file.parts[0] not in ("measurements", "weights")]


def compilers(path: Path) -> list[psutil.Process]:
    """Those that run; a process may end while it is looked at."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if str(path) in (process.info["cmdline"] or [])]


def session_niceness(pid: int) -> int | None:
    """Of all processes of its session together, where the kernel groups them so.

    It has no group for those that were never in a session of their own, init and what runs in init's.
    """
    try:
        _, _, niceness = Path(f"/proc/{pid}/autogroup").read_text().rpartition(" ")
    except FileNotFoundError:
        return None
    return int(niceness) if niceness else None


def test_where_all_kernels_are_there_it_says_so(tmp_path: Path) -> None:
    for kernel in (*DIT_KERNELS, *VAE_KERNELS):
        path = kernel_path(kernel, tmp_path, CPU, torch.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    process = warmup(tmp_path)
    output, _ = process.communicate(timeout=120)
    assert output == f"There is nothing to do: all kernels are in {kernels_folder(tmp_path, CPU)}.\n"
    assert process.returncode == 0


def test_without_a_compiler_it_ends_with_what_is_needed(tmp_path: Path) -> None:
    process = warmup(tmp_path)
    output, errors = process.communicate(timeout=120)
    assert (output, process.returncode) == ("", 1)
    assert errors.startswith("FAILED_PRECONDITION compiling kernels needs a C++ compiler")
    assert f"{NO_COMPILER!r} is not on the PATH; accepted: g++" in errors
    assert "Traceback" not in errors


def test_ctrl_c_leaves_nothing(tmp_path: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # which torch sets, once it is imported here
    process = warmup(tmp_path / "cache", compiler)
    wait_until(lambda: (tmp_path / "busy").exists(), "the compiler works", 120)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=30)
    assert (output, process.returncode) == ("", 128 + signal.SIGINT)
    assert "Traceback" not in errors
    assert left_behind(tmp_path / "cache") == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_behind_up_it_keeps_out_of_the_way_and_ends_with_it(
    tmp_path: Path, compiler: Path, number: signal.Signals
) -> None:
    environment = warmup_environment(tmp_path / "cache", compiler) | {"ACESTAGE_WARMUP": "true"}
    with_known_measurements(tmp_path / "cache")
    with RunningStack.start("tiny-turbo", tmp_path / "stack", **environment) as stack:
        wait_until(lambda: (tmp_path / "busy").exists(), "the compiler works", 120)
        (compiling,) = compilers(compiler)
        assert compiling.nice() == LOWEST_PRIORITY
        assert os.sched_getscheduler(compiling.pid) == os.SCHED_IDLE
        assert session_niceness(compiling.pid) in (LOWEST_PRIORITY, None)
        with stack.client() as client:
            song = client.generate("piano", duration_s=10, seed=1, step_count=1)
        assert song.settings.kernels == "eager"
        assert {stage.stage: stage.kernels for stage in song.stages} == {
            "text_encoder": "",
            "dit": "eager",
            "vae": "eager",
        }
        stack.stop(number)  # asserts that nothing is left
    wait_until(lambda: not compilers(compiler), "the compiler has ended")
    assert left_behind(tmp_path / "cache") == []
    assert "Traceback" not in stack.log()


def test_in_the_background_a_compiler_that_is_missing_is_told_last_and_in_a_line(tmp_path: Path) -> None:
    # In a session that is not its own, nor that of the tests: among theirs it would have to wait for long.
    look = "cat /proc/$$/autogroup 2> /dev/null"
    session = f'{look}; "$@" --parent-pid=$$; code=$?; {look}; exit $code'
    command = ["sh", "-c", session, "sh", *warmup_command(load_settings(device="cpu"))]
    done = subprocess.run(
        command,
        env=os.environ | warmup_environment(tmp_path, NO_COMPILER),
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    before = done.stdout[: len(done.stdout) // 2]  # nothing where the kernel does not group by session
    assert done.stdout == 2 * before  # the warmup printed nothing, and the session was not its own
    line = done.stderr.splitlines()[-1]
    assert "WARNING warmup kernels are not compiled: compiling kernels needs a C++ compiler" in line
    assert "Traceback" not in done.stderr
