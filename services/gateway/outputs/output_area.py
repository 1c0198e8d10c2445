"""The folder of finished songs: one folder a job, with its record and its audio."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from acestage.atomic_file import replacing
from acestage.errors import FailedPreconditionError, NotFoundError
from services.gateway.jobs.record import JobRecord

log = logging.getLogger(__name__)

RECORD_FILE = "job.json"
_LOCK_FILE = ".lock"
_LEFTOVERS = ("take-*.f32", ".*.part")
"""What a gateway that was killed had begun to write; a job that goes on is heard from its start again."""
_JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_MISSING = "path: no such file; outputs are dropped by age and by total bytes"


class OutputArea:
    """Folders of jobs, bounded in age and bytes: the oldest go first, and never those of jobs that run.

    Every method may block; but for the constructor and `close`, any thread may call it.

    Args:
        root: where it lies; made where it is not there. One gateway at a time may have it.
        max_bytes: of the files of all jobs together.
        max_age_s: after which an ended job is dropped.
        clock: seconds since 1970.

    Raises:
        FailedPreconditionError: the folder cannot be used, or another gateway has it.
    """

    def __init__(
        self, root: Path, *, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.root = root.resolve(strict=True)
            self._lock = os.open(self.root / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FailedPreconditionError(f"output_dir: {root} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise FailedPreconditionError(f"output_dir: {root} is used by another gateway") from None

    def close(self) -> None:
        os.close(self._lock)

    def folder(self, job_id: str) -> Path:
        """Where the files of a job lie; `write_record` makes it."""
        if _JOB_ID.fullmatch(job_id) is None:
            raise ValueError(f"{job_id[:80]!r} is no id of a job")
        return self.root / job_id

    def write_record(self, record: JobRecord) -> None:
        """Writes what is known of a job, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        folder = self.folder(record.job_id)
        folder.mkdir(exist_ok=True)
        with replacing(folder / RECORD_FILE) as part:
            part.write_text(json.dumps(record.to_dict(), ensure_ascii=False, indent=1), encoding="utf-8")

    def read_records(self) -> list[JobRecord]:
        """The records of all jobs, as a gateway starts; files that the last one left unfinished are removed.

        What cannot be read is passed over, and said in the log.
        """
        records = []
        for path in sorted(self.root.glob(f"*/{RECORD_FILE}")):
            try:
                record = JobRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
                if record.job_id != path.parent.name:
                    raise ValueError(f"is of job {record.job_id}")
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                log.warning("record %s cannot be read: %s", path, error)
            else:
                records.append(record)
                _remove_leftovers(path.parent)
        return records

    def find(self, path: str) -> Path:
        """The audio file that a client names: within the area, relative to it or absolute.

        Raises:
            PermissionError: it lies elsewhere, or is none that clients may read.
            NotFoundError: there is no such file.
        """
        if "\0" in path:
            raise PermissionError("path: is no path")
        try:
            found = (self.root / path).resolve()
            is_file = found.is_file()
        except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
            raise NotFoundError(_MISSING) from error
        parts = found.relative_to(self.root).parts if found.is_relative_to(self.root) else ()
        if len(parts) != 2 or found.name == RECORD_FILE or found.name.startswith("."):
            raise PermissionError("path: lies outside of the output area")
        if not is_file:
            raise NotFoundError(_MISSING)
        return found

    def retire(self, records: Sequence[JobRecord]) -> list[str]:
        """Drops the folders of jobs that ended too long ago, then of the oldest while the files of all jobs
        take too many bytes; returns their ids. What else lies in the area is not ours, and does not count.

        Args:
            records: of all jobs, those that run too.
        """
        now = self._clock()
        sizes = {record.job_id: _byte_count(self.folder(record.job_id)) for record in records}
        total = sum(sizes.values())
        ended = [record for record in records if record.state.is_final]
        dropped = []
        for record in sorted(ended, key=_ended_s):
            if now - _ended_s(record) <= self._max_age_s and total <= self._max_bytes:
                continue
            shutil.rmtree(self.folder(record.job_id), ignore_errors=True)
            total -= sizes[record.job_id]
            dropped.append(record.job_id)
        if dropped:
            log.info("dropped the outputs of %d jobs", len(dropped))
        return dropped


def _remove_leftovers(folder: Path) -> None:
    for path in chain.from_iterable(map(folder.glob, _LEFTOVERS)):
        try:
            path.unlink()
        except OSError as error:
            log.warning("%s cannot be removed: %s", path, error.strerror)


def _ended_s(record: JobRecord) -> float:
    return (record.ended_at or record.created_at).timestamp()


def _byte_count(folder: Path) -> int:
    size = 0
    with contextlib.suppress(FileNotFoundError):  # it may be going
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
    return size
