"""Memory of processes: what is resident, and what the kernel cannot drop."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime.processes.process_memory import measure
from tests.fake_proc import write_process

MIB = 1 << 20


def test_all_figures(tmp_path: Path) -> None:
    status = {"VmHWM": 90 * MIB, "VmRSS": 80 * MIB, "RssAnon": 70 * MIB, "RssShmem": 4 * MIB}
    rollup = {
        "Rss": 80 * MIB,
        "Pss": 50 * MIB,
        "Pss_Anon": 30 * MIB,
        "Pss_File": 17 * MIB,
        "Pss_Shmem": 3 * MIB,
    }
    write_process(tmp_path, 7, status=status, rollup=rollup)
    found = measure("dit/worker", 7, device_bytes={7: 5 * MIB, 8: 6 * MIB}, proc=tmp_path)
    assert found is not None
    assert (found.name, found.pid) == ("dit/worker", 7)
    assert (found.rss_bytes, found.peak_rss_bytes) == (80 * MIB, 90 * MIB)
    assert found.anonymous_bytes == 33 * MIB
    assert found.device_bytes == 5 * MIB
    message = found.to_pb()
    for field in ("name", "pid", "rss_bytes", "peak_rss_bytes", "anonymous_bytes", "device_bytes"):
        assert getattr(message, field) == getattr(found, field)


def test_the_whole_anonymous_memory_where_the_shares_are_not_told(tmp_path: Path) -> None:
    write_process(tmp_path, 7, status={"VmRSS": 80 * MIB, "RssAnon": 70 * MIB, "RssShmem": 4 * MIB})
    found = measure("x", 7, proc=tmp_path)
    assert found is not None
    assert found.anonymous_bytes == 74 * MIB
    assert found.device_bytes == 0


def test_a_process_that_ended_has_no_memory(tmp_path: Path) -> None:
    assert measure("x", 7, proc=tmp_path) is None


def test_a_process_that_cannot_be_looked_at_has_no_memory_either(tmp_path: Path) -> None:
    (tmp_path / "7" / "status").mkdir(parents=True)
    assert measure("x", 7, proc=tmp_path) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESRCH, errno.EMFILE], ids=errno.errorcode.get)
def test_the_whole_anonymous_memory_where_the_shares_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_process(tmp_path, 7, status={"VmRSS": 80 * MIB, "RssAnon": 70 * MIB})
    read_text = Path.read_text

    def read(path: Path) -> str:
        if path.name == "smaps_rollup":
            raise OSError(number, "not now")
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    found = measure("x", 7, proc=tmp_path)
    assert found is not None
    assert found.anonymous_bytes == 70 * MIB


FORKING = """
import mmap, os, signal
from services.runtime.processes.process_memory import measure

MIB = 1 << 20
ballast = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE)
ballast.write(b"x" * len(ballast))
alone = measure("parent").anonymous_bytes
read_fd, write_fd = os.pipe()
child = os.fork()
if child == 0:
    ballast.seek(0)
    ballast.write(b"y" * (16 * MIB))
    os.write(write_fd, b"!")
    signal.pause()
os.read(read_fd, 1)
print(alone, measure("parent").anonymous_bytes, measure("child", child).anonymous_bytes)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_pages_that_are_shared_after_a_fork_count_once() -> None:
    """Parent and child together grow by what the child wrote, not by what it inherited."""
    ended = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    alone, parent, child = map(int, ended.stdout.split())
    assert alone >= 64 * MIB
    assert parent + child - alone == pytest.approx(16 * MIB, abs=8 * MIB)
