"""Measurements that are kept on disk: what is found again, and what is not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from acestage.planning import ActivationCurve, StageMemory
from services.runtime.memory import measurements
from services.runtime.memory.measurements import SOURCES, Measurements, file_digests
from services.runtime.preload import parallel_measuring

MEMORY = StageMemory(
    context_bytes=3,
    reserve_bytes=5,
    weights_bytes={"none": 7, "int8": 4},
    activations={("tile", "none"): ActivationCurve(((8, 100), (16, 200)))},
    halo_frame_count=2,
)
SUBJECT: dict[str, Any] = {
    "stage": "dit",
    "architecture": {"transformer": {"layers": 2}},
    "dtype": "bfloat16",
    "cpu_thread_count": 1,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of code that takes part."""
    file = tmp_path / "source" / "stage" / "engine.py"
    file.parent.mkdir(parents=True)
    file.write_text("WIDTH = 1\n")
    return file


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(cache_dir: Path, source: Path) -> Measurements:
    """As the next process opens them."""
    return Measurements(cache_dir, file_digests([source.parents[1]]))


def recalled(kept: Measurements, memory: StageMemory = MEMORY, **changes: object) -> tuple[StageMemory, bool]:
    """What `recall_all` has for a subject, and whether it had to be measured."""
    measured: list[None] = []

    def measure() -> StageMemory:
        measured.append(None)
        return memory

    digest = kept.digest(**SUBJECT | changes)
    with patch.object(parallel_measuring, "measure_all", lambda wanted: [one() for one in wanted]):
        found = parallel_measuring.recall_all({digest: measure}, kept)[digest]
    return found, bool(measured)


def test_what_one_process_measured_the_next_one_finds(cache_dir: Path, source: Path) -> None:
    assert recalled(opened(cache_dir, source)) == (MEMORY, True)
    assert recalled(opened(cache_dir, source)) == (MEMORY, False)
    (file,) = (cache_dir / "measurements").iterdir()
    assert file.is_file()


def test_our_code_is_that_which_was_imported(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update must not have a service that goes on keep, for the new code, what it measures of the old."""

    def changed(file: Path) -> bytes:
        return b"changed"

    before = Measurements(cache_dir).digest(**SUBJECT)
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert Measurements(cache_dir).digest(**SUBJECT) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "vae"},
        {"architecture": {"transformer": {"layers": 3}}},
        {"architecture": {}},
        {"dtype": "float32"},
        {"cpu_thread_count": 2},
        {"cpu_thread_count": None},
    ],
)
def test_another_subject_is_measured_by_itself(
    changes: dict[str, object], cache_dir: Path, source: Path
) -> None:
    kept = opened(cache_dir, source)
    other = StageMemory(1, 1, {"none": 1}, {})
    recalled(kept)
    assert recalled(kept, other, **changes) == (other, True)
    assert recalled(kept) == (MEMORY, False)
    assert recalled(kept, **changes) == (other, False)


def test_after_a_change_of_the_code_all_is_measured_again(cache_dir: Path, source: Path) -> None:
    recalled(opened(cache_dir, source))
    source.write_text("WIDTH = 2\n")
    assert recalled(opened(cache_dir, source)) == (MEMORY, True)
    new = source.with_name("memory.py")
    new.touch()
    assert recalled(opened(cache_dir, source)) == (MEMORY, True)
    new.rename(new.with_name("kernels.py"))
    assert recalled(opened(cache_dir, source)) == (MEMORY, True)
    assert recalled(opened(cache_dir, source)) == (MEMORY, False)


def test_another_version_of_a_library_is_measured_by_itself(
    cache_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled(opened(cache_dir, source))
    monkeypatch.setattr(measurements.metadata, "version", lambda name: "0.0")
    assert recalled(opened(cache_dir, source)) == (MEMORY, True)


def test_the_code_of_every_stage_takes_part() -> None:
    files = {str(file.relative_to(folder.parent)) for folder in SOURCES for file in folder.rglob("*.py")}
    assert files >= {
        *(
            f"services/{stage}/{name}.py"
            for stage in ("dit", "vae", "text_encoder")
            for name in ("engine", "memory")
        ),
        "services/runtime/memory/memory_probe.py",
        "planning/stage_memory.py",
        "checkpoints/modules.py",
    }


@pytest.mark.parametrize("length", [0, 10, 40, None])
def test_a_damaged_file_is_measured_again(
    length: int | None, cache_dir: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recalled(opened(cache_dir, source))
    (file,) = (cache_dir / "measurements").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if length is None else content[:length])
    assert recalled(opened(cache_dir, source)) == (MEMORY, True)
    assert "is damaged, so it is measured again" in caplog.text
    assert recalled(opened(cache_dir, source)) == (MEMORY, False)


def test_where_nothing_can_be_kept_all_is_measured_as_ever(
    cache_dir: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache_dir.touch()  # a folder that forbids writing would not keep out a superuser
    for _ in range(2):
        assert recalled(opened(cache_dir, source)) == (MEMORY, True)
    assert "cannot be read, so it is measured again" in caplog.text
    assert "cannot be written, so it will be measured again" in caplog.text


def test_a_file_that_cannot_be_read_is_measured_again(cache_dir: Path, source: Path) -> None:
    kept = opened(cache_dir, source)
    (cache_dir / "measurements" / kept.digest(**SUBJECT)).mkdir(parents=True)
    assert recalled(kept) == (MEMORY, True)
    assert [file.name for file in (cache_dir / "measurements").iterdir()] == [kept.digest(**SUBJECT)]
