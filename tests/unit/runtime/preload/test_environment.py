"""What preload processes, and the workers that they fork, find in their environment."""

from __future__ import annotations

import pytest

from services.runtime.preload.environment import SPIN_COUNT, preload_environment


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)


def test_threads_that_wait_soon_leave_their_cpu() -> None:
    assert preload_environment(None)["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


def test_who_sets_how_threads_wait_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert preload_environment(None)["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in preload_environment(None)


def test_the_allocator_of_a_setting_replaces_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    assert preload_environment(None)["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native"
    allocator = "expandable_segments:True"
    assert preload_environment(allocator)["PYTORCH_CUDA_ALLOC_CONF"] == allocator
