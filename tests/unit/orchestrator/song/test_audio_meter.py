"""What is said of a track: peak, gain, checksum, warnings."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from acestage.protos.generation.v1.generation_pb2 import Track
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from services.orchestrator.song.audio_meter import AudioMeter


def track(*chunks: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Track:
    meter = AudioMeter()
    for chunk in chunks:
        meter.add(AudioChunk(samples=chunk.astype("<f4").tobytes(), channel_count=2, sample_rate_hz=48_000))
    return meter.track(0, 7)


def sine(peak: float, count: int = 4_800) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    wave = peak * np.sin(np.arange(count) * 2 * np.pi / 48)
    return np.stack([wave, wave / 2], axis=1).astype(np.float32)


@pytest.mark.parametrize("peak", [0.01, 0.5, 1.0, 3.0])
def test_the_gain_brings_the_peak_to_minus_one_decibel(peak: float) -> None:
    found = track(sine(peak), sine(peak / 3))
    assert found.peak * found.gain == pytest.approx(10 ** (-1 / 20), rel=1e-6)
    assert found.sample_count == 9_600
    assert found.warnings == []


def test_the_checksum_is_that_of_all_samples() -> None:
    first, second = sine(0.3), sine(0.9)
    assert track(first, second).samples_sha256 == hashlib.sha256(first.tobytes() + second.tobytes()).digest()


def test_rms_is_that_of_both_channels() -> None:
    assert track(sine(1.0)).rms == pytest.approx(np.sqrt((0.5 + 0.125) / 2), rel=1e-3)


def test_silence_gets_a_warning() -> None:
    assert list(track(sine(1e-7)).warnings) == ["the audio is silent"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_get_a_warning_and_no_gain(value: float) -> None:
    broken = sine(0.5)
    broken[100, 1] = value
    for chunks in ([broken, sine(0.5)], [sine(0.5), broken]):
        found = track(*chunks)
        assert found.gain == 1.0
        assert "not finite" in found.warnings[0]
