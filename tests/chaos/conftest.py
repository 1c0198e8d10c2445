"""Stacks that the tests here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.chaos_stack import ChaosStack

PROGRESS_TIMEOUT_S = 4.0
TILE_FRAMES = 32


@pytest.fixture(scope="session")
def small_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosStack]:
    """A device for one stage at a time, with as many jobs in work as by default; tests leave it in order."""
    with ChaosStack.start(
        tmp_path_factory.mktemp("small-device"),
        ACESTAGE_PROGRESS_TIMEOUT=f"{PROGRESS_TIMEOUT_S:g}",
        ACESTAGE_VAE_TILE_FRAMES=f"{TILE_FRAMES}",
    ) as stack:
        yield stack
