"""Three songs in a row on a card of 4 GB, or what a larger one simulates. Run by `make gpu-check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from acestage.errors import VramBudgetExceededError
from acestage.generation import StageStarted
from acestage.planning import GIB, MIB
from scripts.random_checkpoint import write_checkpoint
from tests.running_stack import RunningStack


@pytest.fixture(scope="module")
def small_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The published sizes with random weights: about 6 GB on disk for as long as the test lasts."""
    folder = tmp_path_factory.mktemp("full-size")
    checkpoint = write_checkpoint(folder / "model", size="full", layout="original", dtype="bfloat16")
    with RunningStack.start(
        checkpoint, folder / "run", device="cuda", MAX_CUDA_VRAM="4", ACESTAGE_THREADS="4"
    ) as stack:
        yield stack


def test_three_songs_in_a_row_stay_within_the_plan(small_card: RunningStack) -> None:
    swaps = []
    with small_card.client() as client:
        for seed in range(3):
            generation = client.generate(
                f"piano, number {seed}",  # what is known of a prompt needs no text encoder
                duration_s=180,
                seed=seed,
                on_event=lambda event: swaps.append(event) if isinstance(event, StageStarted) else None,
            )
            assert np.isfinite(generation.tracks[0].audio).all()
            for stage in generation.stages:
                print(
                    f"song {seed} {stage.stage}: "
                    f"woken in {stage.load_s:.2f} s, worked {stage.compute_s:.2f} s, "
                    f"peak {stage.peak_device_bytes / MIB:.0f} of {stage.planned_bytes / MIB:.0f} MiB"
                )
                assert stage.peak_device_bytes < stage.planned_bytes <= 4 * GIB
                assert stage.adaptations == ()
    assert len(swaps) == 9
    assert not any(start.was_warm for start in swaps)  # one stage at a time


def test_a_song_of_ten_minutes_fits(small_card: RunningStack) -> None:
    with small_card.client() as client:
        generation = client.generate("piano", duration_s=600, seed=1)
    assert generation.tracks[0].duration_s == 600
    assert [stage.adaptations for stage in generation.stages] == [()] * 3


def test_too_small_a_card_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with (
        RunningStack.start("tiny-turbo", tmp_path, device="cuda", MAX_CUDA_VRAM="0.25") as stack,
        stack.client() as client,
        pytest.raises(VramBudgetExceededError),
    ):
        client.generate("piano", duration_s=10)
