"""Stages on a device that is not the CPU."""

from __future__ import annotations

import subprocess
import sys


def test_no_stage_mixes_devices() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.fake_gpu"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 * 3 * 2  # stages, data types, with INT8 and without
