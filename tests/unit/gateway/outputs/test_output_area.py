from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from acestage.errors import FailedPreconditionError, NotFoundError
from services.gateway.jobs.record import JobRecord, JobState
from services.gateway.outputs.output_area import RECORD_FILE, OutputArea
from tests.unit.gateway.gateway_records import START, ended_record


class Clock:
    def __init__(self) -> None:
        self.now_s = START.timestamp()

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def area(tmp_path: Path, clock: Clock) -> Iterator[OutputArea]:
    area = OutputArea(tmp_path / "out", max_bytes=10_000, max_age_s=100, clock=clock)
    yield area
    area.close()


def keep(area: OutputArea, job_id: str, ended_s: float, byte_count: int) -> JobRecord:
    record = ended_record(job_id, ended_s=ended_s)
    area.write_record(record)
    (area.folder(job_id) / "song.mp3").write_bytes(bytes(byte_count))
    return record


def test_a_record_is_read_as_it_was_written(area: OutputArea) -> None:
    record = ended_record("abc123")
    area.write_record(record)
    assert area.read_records() == [record]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"job_id": "bad"}', "\x00", '{"order": 3}'])
def test_what_is_no_record_is_passed_over(area: OutputArea, text: str) -> None:
    keep(area, "good", 0, 1)
    (area.root / "bad").mkdir()
    (area.root / "bad" / RECORD_FILE).write_text(text)
    assert [record.job_id for record in area.read_records()] == ["good"]


def test_a_record_in_the_folder_of_another_job_is_passed_over(area: OutputArea) -> None:
    keep(area, "good", 0, 1)
    area.folder("good").rename(area.root / "other")
    assert area.read_records() == []


def test_what_a_gateway_that_was_killed_left_unfinished_is_removed(area: OutputArea) -> None:
    keep(area, "abc", 0, 1)
    for name in ("take-0.f32", "take-11.f32", ".0123456789abcdef.part"):
        (area.folder("abc") / name).write_bytes(b"unfinished")
    (area.folder("abc") / "take-2.f32").mkdir()  # stays, and costs no record
    (area.root / "theirs").mkdir()
    (area.root / "theirs" / "take-0.f32").write_bytes(b"of somebody else")
    assert [record.job_id for record in area.read_records()] == ["abc"]
    left = sorted(path.name for path in area.folder("abc").iterdir())
    assert left == [RECORD_FILE, "song.mp3", "take-2.f32"]
    assert (area.root / "theirs" / "take-0.f32").exists()


def test_outputs_are_found_by_their_relative_and_their_full_path(area: OutputArea) -> None:
    keep(area, "abc", 0, 1)
    expected = area.root / "abc" / "song.mp3"
    assert area.find("abc/song.mp3") == expected
    assert area.find(str(expected)) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../secret.txt",
        "abc/../../secret.txt",
        "abc/link",
        "abc",
        "abc/job.json",
        "abc/.hidden",
        ".lock",
        "abc/deep/song.mp3",
        "abc/song\0.mp3",
    ],
)
def test_nothing_else_is_found(area: OutputArea, tmp_path: Path, path: str) -> None:
    keep(area, "abc", 0, 1)
    (tmp_path / "secret.txt").write_text("secret")
    (area.folder("abc") / "link").symlink_to(tmp_path / "secret.txt")
    (area.folder("abc") / "deep").mkdir()
    (area.folder("abc") / "deep" / "song.mp3").touch()
    (area.folder("abc") / ".hidden").touch()
    with pytest.raises(PermissionError):
        area.find(path)


@pytest.mark.parametrize("path", ["abc/other.mp3", "nobody/song.mp3", "abc/" + "x" * 300])
def test_a_missing_file_is_said_to_be_missing(area: OutputArea, path: str) -> None:
    keep(area, "abc", 0, 1)
    with pytest.raises(NotFoundError):
        area.find(path)


@pytest.mark.parametrize("job_id", ["", "..", "a/b", "a.b", "x" * 65])
def test_no_job_has_a_folder_elsewhere(area: OutputArea, job_id: str) -> None:
    with pytest.raises(ValueError, match="no id of a job"):
        area.folder(job_id)


def test_outputs_go_when_they_are_too_old(area: OutputArea, clock: Clock) -> None:
    records = [keep(area, "old", 0, 1), keep(area, "new", 50, 1)]
    clock.now_s += 101
    assert area.retire(records) == ["old"]
    assert [path.name for path in area.root.iterdir() if path.is_dir()] == ["new"]


def test_the_oldest_go_while_all_take_too_much(area: OutputArea) -> None:
    records = [keep(area, f"job{number}", 10 - number, 2_500) for number in range(4)]
    assert area.retire(records) == ["job3", "job2"]


def test_jobs_that_run_are_not_dropped(area: OutputArea, clock: Clock) -> None:
    keep(area, "running", 0, 50_000)
    ended = keep(area, "ended", 0, 1)
    clock.now_s += 1_000
    assert area.retire([ended]) == ["ended"]
    assert area.folder("running").is_dir()


def test_jobs_that_run_count_and_other_folders_do_not(area: OutputArea) -> None:
    album = area.root / "album"
    album.mkdir()
    (album / "song.mp3").write_bytes(bytes(50_000))
    records = [keep(area, "ended", 0, 1), keep(area, "last", 1, 1)]
    assert area.retire(records) == []
    keep(area, "running", 0, 9_999)
    running = ended_record("running", state=JobState.RUNNING)
    assert area.retire([*records, running]) == ["ended", "last"]
    assert {path.name for path in area.root.iterdir() if path.is_dir()} == {"album", "running"}


def test_one_gateway_at_a_time_has_the_folder(area: OutputArea) -> None:
    with pytest.raises(FailedPreconditionError, match=r"output_dir: .* is used by another gateway"):
        OutputArea(area.root, max_bytes=1, max_age_s=1)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPreconditionError, match=r"output_dir: .*file/out cannot be used"):
        OutputArea(tmp_path / "file" / "out", max_bytes=1, max_age_s=1)


def test_a_record_that_cannot_be_written_leaves_the_one_before(
    area: OutputArea, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = keep(area, "abc", 0, 1)

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        area.write_record(ended_record("abc", ended_s=9))
    assert area.read_records() == [record]
    assert sorted(path.name for path in area.folder("abc").iterdir()) == [RECORD_FILE, "song.mp3"]
