"""Samples are kept below the ceiling without a click, whatever the blocks they come in."""

from __future__ import annotations

import numpy as np
import pytest

from services.gateway.exports.codec import Samples
from services.gateway.outputs.running_gain import CEILING, RAMP_SAMPLES, RunningGain

QUIET, LOUD, LOUDER = 0.5, 1.5, 3.0


def applied(*blocks: Samples) -> Samples:
    gain = RunningGain()
    return np.concatenate([*(gain.apply(block) for block in blocks), gain.flush()])


def constant(value: float, count: int) -> Samples:
    return np.full((count, 2), value, np.float32)


def test_what_is_not_too_loud_stays_bit_by_bit() -> None:
    song = np.random.default_rng(1).uniform(-CEILING, CEILING, (5000, 2)).astype(np.float32)
    np.testing.assert_array_equal(applied(*np.split(song, [1, 1, 700, 4999])), song)


def test_samples_come_as_soon_as_they_are_further_from_the_end_than_the_ramp() -> None:
    gain = RunningGain()
    assert len(gain.apply(constant(QUIET, RAMP_SAMPLES))) == 0
    assert len(gain.apply(constant(QUIET, 100))) == 100
    assert len(gain.flush()) == RAMP_SAMPLES
    assert len(gain.flush()) == 0


def test_the_gain_comes_down_over_the_ramp_before_a_loud_block_and_stays() -> None:
    song = applied(constant(QUIET, 2000), constant(LOUD, 1000), constant(QUIET, 1000))
    gains = song[:, 0] / np.repeat([QUIET, LOUD, QUIET], [2000, 1000, 1000])
    lower = CEILING / LOUD
    np.testing.assert_array_equal(gains[: 2000 - RAMP_SAMPLES], 1.0)
    np.testing.assert_allclose(gains[2000:], lower, rtol=1e-6)
    steps = np.diff(gains)
    assert steps.max() <= 1e-6
    assert -steps.min() == pytest.approx((1.0 - lower) / (RAMP_SAMPLES - 1), rel=1e-2)


def test_it_falls_again_where_a_later_block_is_louder() -> None:
    song = applied(constant(QUIET, 1000), constant(LOUD, 1000), constant(LOUDER, 1000))
    assert len(song) == 3000
    assert np.abs(song).max() <= CEILING * (1 + 1e-6)
    np.testing.assert_allclose(song[2000:], CEILING, rtol=1e-6)


def test_both_channels_have_the_gain_of_the_louder_one() -> None:
    block = np.stack((np.full(10, 0.1), np.full(10, -2.0)), axis=1).astype(np.float32)
    np.testing.assert_allclose(applied(block), block * CEILING / 2, rtol=1e-6)
