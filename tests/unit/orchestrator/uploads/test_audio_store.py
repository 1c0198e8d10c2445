"""The store keeps audio by id within its bound, across restarts, and leaves nothing half done behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from acestage.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError
from services.orchestrator.uploads import audio_store
from services.orchestrator.uploads.audio_facts import AudioFacts
from services.orchestrator.uploads.audio_store import AudioStore
from services.orchestrator.uploads.retention import drop_by_age
from tests.running_stack import wait_until

SAMPLE_COUNT = 1_000
ROOM_BYTES = 3 * (SAMPLE_COUNT * 8 + 400)
"""For three of the audios below, and not for four."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AudioStore]:
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as opened:
        yield opened


def samples_of(number: int) -> np.ndarray:
    return np.full((SAMPLE_COUNT, 2), number, np.float32)


def add(store: AudioStore, number: int) -> str:
    """Stores `samples_of(number)`; returns the id."""
    data = samples_of(number).tobytes()
    facts = AudioFacts(
        f"a{hashlib.sha256(data).hexdigest()[:32]}",
        SAMPLE_COUNT,
        number,
        number,
        "WAV PCM_16",
        44_100,
        1,
        ("w",),
    )
    with store.workspace() as folder:
        (folder / "decoded").write_bytes(data)
        store.add(folder / "decoded", facts)
    return facts.audio_id


def has(store: AudioStore, audio_id: str) -> bool:
    try:
        store.facts(audio_id)
    except NotFoundError:
        return False
    return True


def files(store_folder: Path) -> list[Path]:
    return [path for path in store_folder.rglob("*") if path.is_file()]


def test_what_is_stored_is_found_by_its_id(store: AudioStore, tmp_path: Path) -> None:
    audio_id = add(store, 1)
    facts = store.facts(audio_id)
    assert (facts.audio_id, facts.sample_count, facts.warnings) == (audio_id, SAMPLE_COUNT, ("w",))
    assert facts.duration_s == SAMPLE_COUNT / 48_000
    with store.use(audio_id) as samples:
        assert np.array_equal(samples, samples_of(1))
        assert isinstance(samples, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            samples[0, 0] = 2
    assert (tmp_path / "audio").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "audio_id",
    [
        "",
        "a",
        "a" + "0" * 32,
        "../../etc/passwd",
        "a" + "0" * 31 + "/",
        "A" + "0" * 32,
        "a" + "0" * 32 + "\n",
    ],
)
def test_an_id_that_is_none_is_not_found(store: AudioStore, audio_id: str) -> None:
    for ask in (store.facts, store.delete, lambda unknown: store.use(unknown).__enter__()):
        with pytest.raises(NotFoundError, match=r"there is no audio with the id .* upload it again"):
            ask(audio_id)


def test_ids_stay_valid_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        audio_id = add(store, 1)
        before = store.facts(audio_id)
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        assert store.facts(audio_id) == before
        with store.use(audio_id) as samples:
            assert np.array_equal(samples, samples_of(1))


def test_what_was_not_used_for_longest_makes_room(store: AudioStore) -> None:
    first, second, third = (add(store, number) for number in (1, 2, 3))
    with store.use(first):
        pass
    add(store, 3)
    fourth = add(store, 4)
    assert [has(store, audio_id) for audio_id in (first, second, third, fourth)] == [True, False, True, True]


def test_a_restart_does_not_forget_what_was_used_last(tmp_path: Path) -> None:
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        first, second, third = (add(store, number) for number in (1, 2, 3))
        for age_s, audio_id in enumerate((second, third, first)):
            os.utime(tmp_path / "audio" / f"{audio_id}.audio", (1_000 + age_s, 1_000 + age_s))
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        add(store, 4)
        assert [has(store, audio_id) for audio_id in (first, second, third)] == [True, False, True]


def test_a_smaller_bound_drops_the_oldest_at_the_start(tmp_path: Path) -> None:
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        audio_ids = [add(store, number) for number in (1, 2, 3)]
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES // 3)) as store:
        assert [has(store, audio_id) for audio_id in audio_ids] == [False, False, True]


def test_audio_in_use_is_never_dropped(store: AudioStore) -> None:
    first, second, third = (add(store, number) for number in (1, 2, 3))
    with store.use(first), store.use(second) as samples, store.use(third):
        with pytest.raises(ResourceExhaustedError, match="are in use by jobs") as caught:
            add(store, 4)
        assert caught.value.retry_delay_s
        assert np.array_equal(samples, samples_of(2))
    add(store, 4)
    # The third was let go first, and so was unused for longest.
    assert [has(store, audio_id) for audio_id in (first, second, third)] == [True, True, False]


def test_audio_larger_than_the_store_is_refused(tmp_path: Path) -> None:
    with closing(AudioStore(tmp_path / "audio", 100)) as store:
        with pytest.raises(ResourceExhaustedError, match="ACESTAGE_MAX_AUDIO_BYTES allows 100"):
            add(store, 1)
        assert not files(tmp_path)


def test_deleted_audio_is_gone_but_for_who_uses_it(store: AudioStore, tmp_path: Path) -> None:
    first, second, third = (add(store, number) for number in (1, 2, 3))
    with store.use(first) as samples, store.use(second), store.use(third):
        store.delete(first)
        assert not has(store, first)
        assert np.array_equal(samples, samples_of(1))
        with pytest.raises(ResourceExhaustedError):  # the disk has its bytes until its user is done
            add(store, 4)
    add(store, 4)
    assert has(store, second)
    assert len(files(tmp_path)) == 3


def test_the_same_audio_may_be_stored_several_times_at_once(store: AudioStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        audio_ids = list(pool.map(lambda _: add(store, 1), range(24)))
    assert len(set(audio_ids)) == 1
    assert [path.name for path in files(tmp_path)] == [f"{audio_ids[0]}.audio"]
    for number in (2, 3):  # it counts once
        add(store, number)
    assert has(store, audio_ids[0])


def test_a_workspace_is_removed_however_it_is_left(store: AudioStore, tmp_path: Path) -> None:
    def fail() -> None:
        with store.workspace() as folder:
            (folder / "upload").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not files(tmp_path)


def test_what_a_killed_process_left_is_removed_at_the_start_and_nothing_of_a_living_one(
    tmp_path: Path,
) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from services.orchestrator.uploads.audio_store import AudioStore\n"
        "with AudioStore(Path(sys.argv[1]), 9_999).workspace() as folder:\n"
        "    (folder / 'upload').write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "audio"], timeout=60)
    assert [path.name for path in files(tmp_path)] == ["upload"]
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as living, living.workspace() as folder:
        assert not files(tmp_path)
        (folder / "upload").write_bytes(b"half")
        AudioStore(tmp_path / "audio", ROOM_BYTES).close()
        assert (folder / "upload").read_bytes() == b"half"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data[:-4] + bytes(4),
        lambda data: b"x" + data,
        lambda data: data[:8_000] + b"[]" + b"\2\0\0\0",
    ],
)
def test_a_damaged_file_is_removed_at_the_start(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        audio_id = add(store, 1)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as store:
        assert not has(store, audio_id)
        assert not files(tmp_path)
        assert add(store, 1) == audio_id


def test_stores_that_share_a_folder_see_what_the_other_adds_and_drops(tmp_path: Path) -> None:
    with (
        closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as one,
        closing(AudioStore(tmp_path / "audio", ROOM_BYTES)) as other,
    ):
        audio_id = add(one, 1)
        assert has(other, audio_id)
        other.delete(audio_id)
        assert not has(one, audio_id)
        assert add(one, 1) == audio_id


def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(
    store: AudioStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audio_store.os, "fsync", fsync)
    with pytest.raises(ResourceExhaustedError, match="cannot be written to disk: No space left on device"):
        add(store, 1)
    assert not files(tmp_path)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPreconditionError, match=r"tmp_dir: .*file/audio cannot be used: "):
        AudioStore(tmp_path / "file" / "audio", ROOM_BYTES)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(FailedPreconditionError, match="ACESTAGE_TMPDIR"):
        AudioStore(tmp_path / "link", ROOM_BYTES)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_nobody_used_for_long_is_dropped(tmp_path: Path) -> None:
    clock = Clock()
    with closing(AudioStore(tmp_path / "audio", 1 << 20, clock)) as store:
        old, used, held = (add(store, number) for number in (1, 2, 3))
        with store.use(held):
            clock.now_s += 90
            with store.use(used):
                pass
            clock.now_s += 20
            store.drop_unused(100.0)
            assert [has(store, audio_id) for audio_id in (old, used, held)] == [False, True, True]
        clock.now_s += 81
        store.drop_unused(100.0)
        assert [has(store, audio_id) for audio_id in (used, held)] == [False, True]  # held until just now
    assert len(files(tmp_path / "audio")) == 1


def test_age_counts_from_the_last_use_also_across_restarts(tmp_path: Path) -> None:
    clock = Clock()
    with closing(AudioStore(tmp_path / "audio", 1 << 20, clock)) as store:
        audio_id = add(store, 1)
    clock.now_s += 99
    with closing(AudioStore(tmp_path / "audio", 1 << 20, clock)) as store:
        store.drop_unused(100.0)
        assert has(store, audio_id)
        clock.now_s += 2
        store.drop_unused(100.0)
        assert not has(store, audio_id)


def test_uploads_are_looked_through_again_and_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(AudioStore(tmp_path / "audio", 1 << 20)) as store:
            dropping = asyncio.create_task(drop_by_age(store, 0.2))
            audio_id = add(store, 1)
            await asyncio.to_thread(wait_until, lambda: not has(store, audio_id), "the audio is dropped")
            assert not dropping.done()
            dropping.cancel()

    asyncio.run(scenario())
