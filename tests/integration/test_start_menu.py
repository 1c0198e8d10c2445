"""The menu for small cards, through a terminal as its users have it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from acestage.local_stack import free_ports
from tests.running_stack import wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "start_4gb_mode.sh"
TIMEOUT_S = 90.0


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where nothing of the developer's is touched: folders and ports of the test's own."""
    ports = free_ports()
    with socket.socket() as rest, socket.socket() as page:
        for listener in (rest, page):
            listener.bind(("127.0.0.1", 0))
        doors = {"ACESTAGE_REST_PORT": rest.getsockname()[1], "ACESTAGE_PAGE_PORT": page.getsockname()[1]}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANG", "LC_"))}
    return kept | {
        **{f"ACESTAGE_{name.upper()}_PORT": str(port) for name, port in ports.items()},
        **{name: str(port) for name, port in doors.items()},
        "ACESTAGE_VENV": sys.prefix,
        "ACESTAGE_MENU_DIR": str(tmp_path / "menu"),
        "ACESTAGE_RUN_DIR": str(tmp_path / "run"),
        "ACESTAGE_TMPDIR": str(tmp_path / "tmp"),
        "ACESTAGE_OUTPUT_DIR": str(tmp_path / "outputs"),
        "ACESTAGE_CHECKPOINT": "tiny-turbo",
        "ACESTAGE_DEVICE": "cpu",
        "ACESTAGE_THREADS": "1",
        "LANG": "en_US.UTF-8",
    }


class Terminal:
    """The script at work in a pseudo-terminal."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.shown = ""
        self._fd, inside = pty.openpty()
        self.process = subprocess.Popen(
            [str(SCRIPT)],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=environment,
            start_new_session=True,
        )
        os.close(inside)

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self._fd, f"{text}\n".encode())

    def until(self, pattern: str) -> str:
        """What is shown up to `pattern`, since the last text was typed."""
        deadline = time.monotonic() + TIMEOUT_S
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, f"{pattern!r} was not shown:\n{self.shown}"
            if select.select([self._fd], [], [], 1.0)[0]:
                try:
                    self.shown += os.read(self._fd, 65_536).decode(errors="replace").replace("\r", "")
                except OSError:  # the script has ended
                    assert re.search(pattern, self.shown), self.shown
        return self.shown

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(environment)
    yield terminal
    terminal.close()
    run(environment, "stop")


def run(
    environment: dict[str, str], *arguments: str, script: str | Path = SCRIPT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def is_open(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_both_doors_are_opened_and_all_is_stopped(terminal: Terminal, environment: dict[str, str]) -> None:
    terminal.until("Your choice: $")
    terminal.type("9")
    assert '"9" is no choice; accepted: 1 to 5, or 0 to leave.' in terminal.until("Your choice: $")
    terminal.type("3")
    shown = terminal.until(r"It runs [\s\S]*Your choice: $")
    assert "No model is chosen: the one in the package is untrained" in shown
    assert ("begin it as a copy: cp " in shown) is not (ROOT / ".env").exists()
    assert ("No NVIDIA GPU was found" in shown) is (not has_gpu())
    doors = [environment["ACESTAGE_PAGE_PORT"], environment["ACESTAGE_REST_PORT"]]
    for port in doors:
        assert f"http://127.0.0.1:{port}" in shown
        assert is_open(port)
    pid = int(Path(environment["ACESTAGE_MENU_DIR"], "up.pid").read_text())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) >= 1 + 5 + 3
    terminal.type("3")
    assert f"It runs already (process {pid})" in terminal.until("Your choice: $")
    terminal.type("5")
    assert "Stopped." in terminal.until(r"Stopped\.[\s\S]*Your choice: $")
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert not any(is_open(port) for port in doors)
    terminal.type("0")
    assert terminal.process.wait(10) == 0


def test_a_model_that_is_not_there_is_said_with_the_way_to_get_it(environment: dict[str, str]) -> None:
    done = run(environment | {"ACESTAGE_CHECKPOINT": "turbo", "LANG": "pt_PT"}, "both")
    assert done.returncode == 1
    assert "O modelo não pode ser usado: " in done.stderr
    assert "turbo" in done.stderr.splitlines()[0]
    assert "models pull turbo\ne indique-o no .env: ACESTAGE_CHECKPOINT=turbo" in done.stderr


@pytest.mark.parametrize(("word", "change"), [("both", {"ACESTAGE_CHECKPOINT": "turbo"}), ("api", {})])
def test_who_is_to_write_an_env_is_told_to_begin_with_a_copy_until_there_is_one(
    environment: dict[str, str], tmp_path: Path, word: str, change: dict[str, str]
) -> None:
    """Else one line in it would end the 4 GB mode."""
    script = shutil.copy(SCRIPT, tmp_path)
    shutil.copy(ROOT / ".env.4gb", tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        environment |= change or {"ACESTAGE_REST_PORT": str(holder.getsockname()[1])}
        done = run(environment, word, script=script)
        assert done.returncode == 1
        assert " .env" in done.stderr
        assert done.stderr.endswith(f"begin it as a copy: cp {tmp_path}/.env.4gb {tmp_path}/.env\n")
        shutil.copy(tmp_path / ".env.4gb", tmp_path / ".env")
        done = run(environment, word, script=script)
    assert done.returncode == 1
    assert "as a copy" not in done.stderr


def test_the_menu_speaks_portuguese_and_ends_with_its_input(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(SCRIPT)],
        input="x\n5\n",
        env=environment | {"LANG": "pt_BR.UTF-8"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0
    for text in ("Página web", "Testar a configuração de memória", '"x" não é uma opção', "Nada está em"):
        assert text in done.stdout


def test_a_port_that_is_taken_is_named_before_anything_starts(environment: dict[str, str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = run(environment | {"ACESTAGE_REST_PORT": port}, "api")
    assert done.returncode == 1
    assert f"Port {port} (rest) is taken by" in done.stderr
    assert f"({os.getpid()})" in done.stderr


def test_without_python_it_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "cat", "bash"):
        found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / "bin" / tool).symlink_to(found)
    lonely = {"PATH": str(tmp_path / "bin"), "ACESTAGE_VENV": str(tmp_path / "none")}
    done = run(environment | lonely, "test")
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr


def test_words_that_are_none_are_refused(environment: dict[str, str]) -> None:
    done = run(environment, "everything")
    assert done.returncode == 2
    assert "page|api|both|test|stop|status|help" in done.stderr


def test_a_number_of_another_process_is_not_ours(environment: dict[str, str]) -> None:
    folder = Path(environment["ACESTAGE_MENU_DIR"])
    folder.mkdir()
    (folder / "up.pid").write_text(str(os.getpid()))
    assert "Nothing runs." in run(environment, "status").stdout
    assert "Nothing runs." in run(environment, "stop").stdout


def test_the_memory_configuration_is_tested_with_a_song(environment: dict[str, str]) -> None:
    done = run(environment, "test")
    assert done.returncode == 0, done.stderr
    for stage in ("text_encoder", "dit", "vae"):
        (line,) = re.findall(rf"^  {stage} +planned +(\d+) MiB, peak +(\d+) MiB$", done.stdout, re.MULTILINE)
        assert all(int(figure) > 0 for figure in line)
    assert "Without a GPU the peak is that of the whole process with its libraries" in done.stdout
    assert "The memory configuration works." in done.stdout
    assert "Nothing runs." in run(environment, "status").stdout


FAKE_ACESTAGE = """#!/bin/sh
echo "acestage $*" >>"$0.calls"
case "$1" in
    up) [ -e "$0.starts" ] || echo "Up."; trap "exit 0" TERM; while :; do sleep 0.1; done ;;
    generate) if [ -e "$0.json" ]; then cat "$0.json"; else while :; do sleep 0.1; done; fi ;;
esac
"""
"""With the file `.starts` beside it, it never is up; without the file `.json`, a song takes for ever."""


@pytest.fixture
def fake(environment: dict[str, str], tmp_path: Path) -> Path:
    """A command that the menu takes for ours."""
    command = tmp_path / "bin" / "acestage"
    command.parent.mkdir()
    command.write_text(FAKE_ACESTAGE)
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for file in command.parent.iterdir():
        file.chmod(0o755)
    environment["ACESTAGE_VENV"] = str(tmp_path)
    return command


@pytest.mark.parametrize("stages", [("text_encoder", "dit", "vae"), ()])
def test_all_parts_of_the_memory_test_read_the_same_settings(
    environment: dict[str, str], fake: Path, stages: tuple[str, ...]
) -> None:
    sizes = {"planned_bytes": 100 << 20, "peak_device_bytes": 99 << 20}
    result = {"stages": [{"stage": stage, **sizes} for stage in stages], "peak_rss_bytes": {}}
    Path(f"{fake}.json").write_text(json.dumps(result))
    done = run(environment, "test")
    assert done.returncode == (0 if stages else 1), done.stderr
    assert "No such file" not in done.stderr
    assert done.stdout.count(" planned    100 MiB, peak     99 MiB\n") == len(stages)
    assert "whole process" not in done.stdout
    assert ("The memory configuration works." in done.stdout) is bool(stages)
    calls = [line.split() for line in Path(f"{fake}.calls").read_text().splitlines()]
    env_files = {call[1]: call[call.index("--env-file") + 1] for call in calls}
    assert env_files.keys() == {"plan", "up", "generate"}
    assert len(set(env_files.values())) == 1


@pytest.mark.parametrize(("choice", "is_up"), [("1", False), ("4", False), ("4", True)])
def test_ctrl_c_ends_what_the_menu_starts_or_tests(
    environment: dict[str, str], fake: Path, terminal: Terminal, choice: str, is_up: bool
) -> None:
    if not is_up:
        Path(f"{fake}.starts").touch()
    calls = Path(f"{fake}.calls")
    terminal.until("Your choice: $")
    terminal.type(choice)
    awaited = "acestage generate" if is_up else "acestage up"
    wait_until(lambda: calls.exists() and awaited in calls.read_text(), "it is at work", TIMEOUT_S)
    pid_file = Path(environment["ACESTAGE_MENU_DIR"], "up.pid")
    started = psutil.Process(int(pid_file.read_text()))
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until("Stopped")
    assert terminal.process.wait(10) == 130
    assert not started.is_running()
    assert not pid_file.exists()


def test_ctrl_c_at_the_menu_leaves_what_is_up(
    environment: dict[str, str], fake: Path, terminal: Terminal
) -> None:
    terminal.type("1")
    terminal.until(r"It runs [\s\S]*Your choice: $")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.process.wait(10) != 0
    assert "It runs" in run(environment, "status").stdout


def test_ctrl_c_ends_what_runs_in_the_foreground(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(SCRIPT), "api"], env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while "Up. The orchestrator" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            select.select([], [], [], 0.1)
        assert is_open(environment["ACESTAGE_REST_PORT"])
        assert f"It runs (process {process.pid})" in run(environment, "status").stdout
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        _, alive = psutil.wait_procs(family, timeout=15)
        assert alive == []
    finally:
        process.kill()
        process.wait()
