"""Audio that was taken in, on disk, found by an id that is made from its samples.

A file is written under another name and renamed, so it is there as a whole or not at all. Ids stay valid when
the orchestrator starts again, and the times of the files say what was used last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acestage.audio import AUDIO_ID
from acestage.errors import NotFoundError, ResourceExhaustedError
from services.orchestrator.uploads.audio_facts import AudioFacts
from services.orchestrator.uploads.stored_file import ENDING, append_facts, read_facts
from services.runtime.processes.tmp_folder import disk_error, make_tmp_folder, unusable
from services.runtime.processes.work_folder import WorkFolder

log = logging.getLogger(__name__)

_IN_USE_RETRY_S = 10.0


@dataclass(slots=True)
class _Entry:
    """A file of the store.

    Attributes:
        is_dropped: it has no name any more; its bytes are free once the last user is done.
    """

    facts: AudioFacts
    byte_count: int
    user_count: int = 0
    is_dropped: bool = False


class AudioStore:
    """Audio by id, bounded in bytes: what was not used for longest goes first, and never what is in use.

    Every method may be called from any thread. All but `add` and the constructor are quick.

    Args:
        folder: where it lies; made where it is not there. Stores of several processes may share it, each
            with a bound of its own.
        max_bytes: of all files together, those of uploads that go on apart.
        clock: seconds, as the times of files have them.

    Raises:
        FailedPreconditionError: the folder cannot be used, or belongs to somebody else.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}  # what was used last is at the end
        self._byte_count = 0
        make_tmp_folder(folder)
        try:
            self._work = WorkFolder(folder)
            self._load()
        except OSError as error:
            raise unusable(folder, error) from error

    def close(self) -> None:
        """Removes what unfinished uploads have left; the audio stays."""
        self._work.close()

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for the files of one upload, which is removed afterwards.

        Raises:
            ResourceExhaustedError: the disk is full.
        """
        try:
            folder = Path(tempfile.mkdtemp(dir=self._work.path))
        except OSError as error:
            raise disk_error(error.strerror) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, samples: Path, facts: AudioFacts) -> None:
        """Takes over the file `samples` from a workspace, unless the store has these samples already.

        Raises:
            ResourceExhaustedError: the disk is full, or all that could make room is in use.
        """
        dropped: list[Path] = []
        try:
            byte_count = append_facts(samples, facts)
            with self._lock:
                if self._find(facts.audio_id) is not None:
                    self._touch(facts.audio_id)
                    return
                self._make_room(byte_count, dropped)
                samples.replace(self._path(facts.audio_id))
                self._insert(facts, byte_count)
                self._touch(facts.audio_id)
        except OSError as error:
            raise disk_error(error.strerror) from error
        finally:
            _remove(dropped)

    def facts(self, audio_id: str) -> AudioFacts:
        """What there is to say about the audio.

        Raises:
            NotFoundError: the store does not have it.
        """
        with self._lock:
            return self._require(audio_id).facts

    @contextlib.contextmanager
    def use(self, audio_id: str) -> Iterator[npt.NDArray[np.float32]]:
        """The samples [count, 2], read-only and mapped from disk; they are not dropped meanwhile.

        Raises:
            NotFoundError: the store does not have the audio.
        """
        with self._lock:
            entry = self._require(audio_id)
            self._touch(audio_id)
            shape = (entry.facts.sample_count, entry.facts.channel_count)
            samples = np.memmap(self._path(audio_id), dtype="<f4", mode="r", shape=shape)
            entry.user_count += 1
        try:
            yield samples
        finally:
            with self._lock:
                entry.user_count -= 1
                if not entry.is_dropped:
                    self._touch(audio_id)
                elif not entry.user_count:
                    self._byte_count -= entry.byte_count

    def delete(self, audio_id: str) -> None:
        """Drops the audio; who uses it now may go on.

        Raises:
            NotFoundError: the store does not have it.
        """
        with self._lock:
            self._require(audio_id)
            dropped = self._drop(audio_id)
        _remove([dropped])

    def drop_unused(self, max_age_s: float) -> None:
        """Drops what nobody has used for `max_age_s` seconds."""
        dropped: list[Path] = []
        try:
            with self._lock:
                used_before = self._clock() - max_age_s
                for audio_id, entry in list(self._entries.items()):
                    if not entry.user_count and self._used_at(audio_id) < used_before:
                        log.info("dropping audio that was not used for long", extra={"audio_id": audio_id})
                        dropped.append(self._drop(audio_id))
        finally:
            _remove(dropped)

    def _used_at(self, audio_id: str) -> float:
        """When the audio was used last, in seconds of the clock; 0 where its file is gone."""
        try:
            return self._path(audio_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _path(self, audio_id: str) -> Path:
        return self._folder / f"{audio_id}{ENDING}"

    def _load(self) -> None:
        """Finds what earlier processes have stored."""
        found = [
            (path.stat(follow_symlinks=False).st_mtime_ns, path.name.removesuffix(ENDING))
            for path in self._folder.glob(f"*{ENDING}")
        ]
        for _, audio_id in sorted(found):
            if AUDIO_ID.fullmatch(audio_id):
                self._find(audio_id)
        dropped: list[Path] = []
        with contextlib.suppress(ResourceExhaustedError):  # nothing is in use yet, so all may go
            self._make_room(0, dropped)
        _remove(dropped)

    def _require(self, audio_id: str) -> _Entry:
        entry = self._find(audio_id) if AUDIO_ID.fullmatch(audio_id) else None
        if entry is None:
            raise NotFoundError(
                f"there is no audio with the id {audio_id[:64]!r}: it was never uploaded, was deleted, was "
                "not used for long, or made room for newer audio; upload it again and use the id that the "
                "upload returns",
                metadata={"audio_id": audio_id[:64]},
            )
        return entry

    def _find(self, audio_id: str) -> _Entry | None:
        """The entry of what is on disk: another process may have added the file, or removed it."""
        path = self._path(audio_id)
        entry = self._entries.get(audio_id)
        if entry is not None:
            if path.exists():
                return entry
            self._forget(audio_id)
        try:
            facts, byte_count = read_facts(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("stored audio cannot be read, and is removed: %s", error, extra={"file": str(path)})
            path.unlink(missing_ok=True)
            return None
        return self._insert(facts, byte_count)

    def _insert(self, facts: AudioFacts, byte_count: int) -> _Entry:
        entry = self._entries[facts.audio_id] = _Entry(facts, byte_count)
        self._byte_count += byte_count
        return entry

    def _touch(self, audio_id: str) -> None:
        self._entries[audio_id] = self._entries.pop(audio_id)
        now = self._clock()
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            os.utime(self._path(audio_id), (now, now))

    def _make_room(self, byte_count: int, dropped: list[Path]) -> None:
        """Drops what was not used for longest until `byte_count` more bytes are within the bound.

        `dropped` gets the files to remove, also where that does not help.
        """
        if byte_count > self._max_bytes:
            raise ResourceExhaustedError(
                f"the audio takes {byte_count} bytes in 48 kHz stereo; ACESTAGE_MAX_AUDIO_BYTES allows "
                f"{self._max_bytes} for all audio"
            )
        unused = [audio_id for audio_id, entry in self._entries.items() if not entry.user_count]
        for audio_id in unused:
            if self._byte_count + byte_count <= self._max_bytes:
                return
            log.info("dropping the audio that was not used for longest", extra={"audio_id": audio_id})
            dropped.append(self._drop(audio_id))
        if self._byte_count + byte_count > self._max_bytes:
            raise ResourceExhaustedError(
                f"there is no room for {byte_count} bytes of audio: {self._byte_count} of the "
                f"{self._max_bytes} that ACESTAGE_MAX_AUDIO_BYTES allows are in use by jobs",
                retry_delay_s=_IN_USE_RETRY_S,
            )

    def _drop(self, audio_id: str) -> Path:
        """Takes the audio's name away; returns the file, to be removed without the lock: that takes time."""
        doomed = self._work.path / f"{audio_id}-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            self._path(audio_id).rename(doomed)
        self._forget(audio_id)
        return doomed

    def _forget(self, audio_id: str) -> None:
        entry = self._entries.pop(audio_id)
        entry.is_dropped = True
        if not entry.user_count:
            self._byte_count -= entry.byte_count


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
