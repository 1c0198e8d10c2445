"""The folder of files on their way."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from acestage.errors import FailedPreconditionError
from services.gateway.spool import spool_in


def test_files_of_clients_lie_in_a_folder_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/elsewhere")
    folder = tmp_path / "tmp" / "gateway"
    spool_in(folder)
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == folder
    assert Path(os.environ["GRADIO_TEMP_DIR"]).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("a file")
    with pytest.raises(FailedPreconditionError, match=r"tmp_dir: .* cannot be used"):
        spool_in(tmp_path / "tmp" / "gateway")
