"""What compilers leave goes with the work folder, and nobody else can tell where it will be."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.settings import load_settings
from services.dit.kernels import KERNELS
from services.warmup import process
from services.warmup.wanted import WantedKernel


def test_all_temporary_files_go_to_the_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def compile_one(*values: Any) -> None:
        *_, folder = values
        places = {tempfile.gettempdir(), os.environ["TMPDIR"], os.environ["TORCHINDUCTOR_CACHE_DIR"]}
        assert places == {str(folder)}
        folders.append(folder)

    monkeypatch.setattr(process, "check_compiler", lambda device: None)
    monkeypatch.setattr(process, "compile_kernel", compile_one)
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, "")  # so that it is put back
    monkeypatch.setattr(tempfile, "tempdir", None)
    wanted = [WantedKernel(KERNELS[0], torch.float32)]
    process._compile(wanted, load_settings(cache_dir=tmp_path), torch.device("cpu"), lambda text: None)
    (folder,) = folders
    assert not folder.exists()
