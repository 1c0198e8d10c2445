"""The files of a finished job."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from acestage.generation import Track
from services.gateway.exports.export import write_export
from services.gateway.outputs import takes
from services.gateway.outputs.takes import UNTRAINED, write_takes
from tests.unit.gateway.gateway_records import ended_record

WAIT_S = 20.0


def track(index: int) -> Track:
    audio = np.full((4_800, 2), 0.25 * (index + 1), np.float32)
    return Track(index, 40 + index, audio, 48_000, 1.0, 0.5, 0.1, "ab", ())


def test_takes_are_written_side_by_side_and_stay_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_are_at_work = threading.Barrier(2, timeout=WAIT_S)

    def write_with_the_other(*given: Any, **more: Any) -> None:
        both_are_at_work.wait()
        write_export(*given, **more)

    monkeypatch.setattr(takes, "usable_core_count", lambda: 2)
    monkeypatch.setattr(takes, "write_export", write_with_the_other)
    written = write_takes(tmp_path, ended_record("job"), [track(0), track(1)])
    assert [take.seed for take in written] == [40, 41]
    for index, take in enumerate(written):
        for name in (take.master, take.file):
            samples, _ = soundfile.read(tmp_path / name)
            assert np.median(samples) == pytest.approx(0.25 * (index + 1), abs=1e-6)


@pytest.mark.parametrize(("is_untrained", "warnings"), [(True, (UNTRAINED,)), (False, ())])
def test_noise_of_an_untrained_model_is_called_so(
    tmp_path: Path, is_untrained: bool, warnings: tuple[str, ...]
) -> None:
    record = replace(ended_record("job"), settings={"model": {"is_untrained": is_untrained}})
    (take,) = write_takes(tmp_path, record, [track(0)])
    assert take.warnings == warnings
