"""The device lock, against real processes that hold it and die."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from acestage.errors import DeviceQuarantinedError, FailedPreconditionError, StaleFencingTokenError
from services.runtime.devices.device_lock import DeviceLock, Fences, lock_path, open_run_file
from tests.free_devices import is_free

TAKE_LOCK = """
import os, subprocess, sys
from pathlib import Path
from services.runtime.devices.device_lock import DeviceLock
DeviceLock(Path(sys.argv[1]), "cuda:0", fencing_token=7, timeout_s=5.0).__enter__()
"""

HOLD = (
    TAKE_LOCK
    + """
print(os.getpid(), flush=True)
sys.stdin.read()
"""
)

HOLD_IN_FORKED_CHILD = (
    TAKE_LOCK
    + """
pid = os.fork()
if pid:
    print(pid, flush=True)
else:
    sys.stdin.read()
"""
)

EXECUTE_PROGRAM = (
    TAKE_LOCK
    + """
print(subprocess.Popen(["cat"], close_fds=False).pid, flush=True)
"""
)


@contextmanager
def process(script: str, run_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs `script`, and the process id that it printed; its end closes their stdin."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    ) as started:
        assert started.stdout is not None
        yield started, int(started.stdout.readline())


def test_each_device_has_its_own_lock_file(tmp_path: Path) -> None:
    assert lock_path(tmp_path, "cpu") == tmp_path / "cpu.lock"
    assert lock_path(tmp_path, "cuda:0") == tmp_path / "cuda-0.lock"
    with DeviceLock(tmp_path, "cuda:0", fencing_token=8, timeout_s=0.0):
        assert is_free(tmp_path, "cuda:1")


def test_the_lock_is_held_for_the_context(tmp_path: Path) -> None:
    with DeviceLock(tmp_path, "cpu", fencing_token=8, timeout_s=0.0):
        assert not is_free(tmp_path, "cpu")
    assert is_free(tmp_path, "cpu")
    with DeviceLock(tmp_path, "cpu", fencing_token=8, timeout_s=0.0):
        assert not is_free(tmp_path, "cpu")


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with DeviceLock(run_dir, "cpu", fencing_token=8, timeout_s=0.0):
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(lock_path(run_dir, "cpu").stat().st_mode) == 0o600


def test_a_device_in_use_is_refused_after_the_timeout(tmp_path: Path) -> None:
    with (
        process(HOLD, tmp_path),
        pytest.raises(DeviceQuarantinedError) as caught,
        DeviceLock(tmp_path, "cuda:0", fencing_token=8, timeout_s=0.1),
    ):
        pass
    assert "cuda:0" in caught.value.message
    assert str(tmp_path / "cuda-0.lock") in caught.value.message
    assert "0.1 s" in caught.value.message


def test_sigkill_frees_the_device_for_who_waits(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as (holder, _), ThreadPoolExecutor(1) as pool, ExitStack() as held:
        assert not is_free(tmp_path, "cuda:0")
        waiting = pool.submit(
            held.enter_context, DeviceLock(tmp_path, "cuda:0", fencing_token=8, timeout_s=20.0)
        )

        holder.kill()

        waiting.result()
        assert holder.wait() == -signal.SIGKILL
        assert not is_free(tmp_path, "cuda:0")
    assert is_free(tmp_path, "cuda:0")


def test_a_forked_child_keeps_the_device_after_its_parent_died(tmp_path: Path) -> None:
    with process(HOLD_IN_FORKED_CHILD, tmp_path) as (parent, child_pid):
        assert parent.wait() == 0
        assert not is_free(tmp_path, "cuda:0")

        os.kill(child_pid, signal.SIGKILL)

        with DeviceLock(tmp_path, "cuda:0", fencing_token=8, timeout_s=20.0):
            pass


def test_an_executed_program_does_not_keep_the_device(tmp_path: Path) -> None:
    with process(EXECUTE_PROGRAM, tmp_path) as (parent, program_pid):
        assert parent.wait() == 0
        assert is_free(tmp_path, "cuda:0")
        os.kill(program_pid, 0)  # it still runs


def test_a_link_in_place_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    lock_path(tmp_path, "cpu").symlink_to(target)

    with (
        pytest.raises(FailedPreconditionError, match=r"run_dir: .*cpu\.lock cannot be used: .*symbolic link"),
        DeviceLock(tmp_path, "cpu", fencing_token=8, timeout_s=0.0),
    ):
        pass

    assert not target.exists()


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run_dir = tmp_path / "file" / "run"
    with (
        pytest.raises(FailedPreconditionError, match="Not a directory; ACESTAGE_RUN_DIR names another"),
        DeviceLock(run_dir, "cpu", fencing_token=8, timeout_s=0.0),
    ):
        pass


def test_a_run_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = 1000
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(
        Path, "stat", lambda path, **options: os.stat_result((0o40700, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    )
    os.close(open_run_file(tmp_path / "own"))
    owner = 0
    os.close(open_run_file(tmp_path / "of the system"))
    owner = 1001
    with pytest.raises(FailedPreconditionError, match="belongs to another user; ACESTAGE_RUN_DIR names"):
        open_run_file(tmp_path / "of another")


def test_holders_that_share_a_device_are_told_apart(tmp_path: Path) -> None:
    fences = Fences(tmp_path)
    with DeviceLock(tmp_path, "cuda:0", fencing_token=3 << 40, is_exclusive=False, timeout_s=0.0):
        with DeviceLock(tmp_path, "cuda:0", fencing_token=4 << 40, is_exclusive=False, timeout_s=0.0):
            assert not fences.shut_out("cuda:0", 3 << 40)
            assert not fences.shut_out("cuda:0", 4 << 40)
        assert fences.shut_out("cuda:0", 4 << 40)
        assert not fences.shut_out("cuda:0", 3 << 40)
        assert not is_free(tmp_path, "cuda:0")
    fences.close()


def test_who_wants_the_device_alone_waits_for_those_who_share_it(tmp_path: Path) -> None:
    with (
        DeviceLock(tmp_path, "cuda:0", fencing_token=1, is_exclusive=False, timeout_s=0.0),
        pytest.raises(DeviceQuarantinedError),
        DeviceLock(tmp_path, "cuda:0", fencing_token=2, timeout_s=0.05),
    ):
        pass


@pytest.mark.parametrize("is_exclusive", [True, False])
def test_a_holder_that_was_shut_out_never_begins(tmp_path: Path, is_exclusive: bool) -> None:
    fences = Fences(tmp_path)
    assert fences.shut_out("cuda:0", 5)  # it never came
    late = DeviceLock(tmp_path, "cuda:0", fencing_token=5, is_exclusive=is_exclusive, timeout_s=0.0)
    with pytest.raises(StaleFencingTokenError, match="fencing_token 5"), late:
        pass
    with DeviceLock(tmp_path, "cuda:0", fencing_token=6, is_exclusive=is_exclusive, timeout_s=0.0):
        pass
    fences.close()


def test_a_killed_holder_can_be_shut_out_and_a_living_one_cannot(tmp_path: Path) -> None:
    fences = Fences(tmp_path)
    with process(HOLD, tmp_path) as (holder, _):
        assert not fences.shut_out("cuda:0", 7)
        holder.kill()
        holder.wait()
        assert fences.shut_out("cuda:0", 7)
    fences.close()
