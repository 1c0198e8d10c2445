"""`bench.decode_start`: what a margin is, and for how long the music plays."""

from __future__ import annotations

import pytest
import torch

from acestage.settings import EMBEDDED_CHECKPOINT
from bench.decode_start import Contest, Start, least_margin_s, show


@pytest.mark.parametrize(
    ("arrivals_s", "lengths_s", "least"),
    [
        ([1.0], [5.0], None),
        ([1.0, 2.0, 4.0], [2.0, 4.0, 9.0], 1.0),  # needed at 3 and at 7
        ([1.0, 2.0, 9.5], [2.0, 4.0, 9.0], -2.5),
    ],
)
def test_the_first_chunk_has_no_margin(
    arrivals_s: list[float], lengths_s: list[float], least: float | None
) -> None:
    assert least_margin_s(arrivals_s, lengths_s) == least


def test_a_way_with_one_chunk_shows_no_margin(capsys: pytest.CaptureFixture[str]) -> None:
    starts = [Start("whole", 2.0, 2.0, None, 0.0), Start("tiles", 0.5, 3.0, 1.25, 0.0)]
    show([starts], seconds=6.0)
    whole, tiles = capsys.readouterr().out.splitlines()[-2:]
    assert whole.split() == ["whole", "2.00", "1.000", "2.00", "1.00", "3.00", "-", "0.0e+00"]
    assert tiles.split() == ["tiles", "0.50", "0.250", "3.00", "1.50", "2.00", "1.25", "0.0e+00"]


@torch.no_grad()
def test_all_ways_decode_the_same_song() -> None:
    contest = Contest(EMBEDDED_CHECKPOINT, torch.float32, 50)
    assert contest.seconds == 2.0
    untiled, *others = contest.round([16])
    assert untiled.margin_s is None
    assert others[-1].margin_s is not None
    assert all(other.distance < 1e-4 for other in others)
