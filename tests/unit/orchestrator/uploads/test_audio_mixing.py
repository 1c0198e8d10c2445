"""Channels are mixed by ITU-R BS.775, in the order of the file's format, and never get louder."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.orchestrator.uploads.audio_mixing import weights

SIDE = math.sqrt(0.5)


def test_mono_goes_to_both_and_stereo_stays() -> None:
    assert weights(1, "WAV").tolist() == [[1, 1]]
    assert weights(2, "WAV").tolist() == [[1, 0], [0, 1]]


def test_5_1_is_mixed_by_the_recommendation() -> None:
    expected = np.array([[1, 0], [0, 1], [SIDE, SIDE], [0, 0], [SIDE, 0], [0, SIDE]]) / (1 + 2 * SIDE)
    assert weights(6, "WAV") == pytest.approx(expected)


def test_both_pairs_of_7_1_count_as_surround() -> None:
    left = np.array([1, 0, SIDE, 0, SIDE, 0, SIDE, 0]) / (1 + 3 * SIDE)
    right = np.array([0, 1, SIDE, 0, 0, SIDE, 0, SIDE]) / (1 + 3 * SIDE)
    assert weights(8, "FLAC") == pytest.approx(np.stack([left, right], axis=1))


@pytest.mark.parametrize(("channel_count", "order"), [(6, [0, 2, 1, 4, 5, 3]), (8, [0, 2, 1, 6, 7, 4, 5, 3])])
def test_ogg_has_its_own_order(channel_count: int, order: list[int]) -> None:
    assert weights(channel_count, "OGG") == pytest.approx(weights(channel_count, "WAV")[order])


@pytest.mark.parametrize("channel_count", [3, 4, 5, 7, 16])
def test_other_counts_are_averaged(channel_count: int) -> None:
    assert weights(channel_count, "WAV") == pytest.approx(np.full((channel_count, 2), 1 / channel_count))


@pytest.mark.parametrize("container", ["WAV", "OGG"])
@pytest.mark.parametrize("channel_count", range(1, 17))
def test_nothing_gets_louder_than_full_scale(channel_count: int, container: str) -> None:
    assert weights(channel_count, container).sum(axis=0).max() <= 1 + 1e-6
