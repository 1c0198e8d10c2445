"""What a user sees when the model libraries are imported: nothing."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_models_prints_nothing() -> None:
    code = "import acestage.checkpoints.loading, sys; assert 'torchao' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
