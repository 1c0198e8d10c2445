"""Pictures show where the sound is, at any length and size."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from PIL import Image

from acestage.errors import InvalidArgumentError
from services.gateway.exports.pictures import peaks, spectrogram_png, waveform_svg
from services.gateway.exports.stored_samples import StoredSamples
from tests.unit.gateway.exports.exported_audio import RATE_HZ, two_tones


def brightness(png: bytes) -> np.ndarray:
    """[height, width], the top first."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L")).astype(int)


def test_peaks_are_those_of_each_part_over_both_channels() -> None:
    samples = np.zeros((100, 2), np.float32)
    samples[10, 0], samples[30, 1], samples[99, 0] = 0.5, -0.25, 1.0
    assert peaks(samples, 4).tolist() == [[0.0, 0.5], [-0.25, 0.0], [0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(("sample_count", "count"), [(0, 3), (1, 3), (2, 5), (7, 7), (1_000, 999)])
def test_peaks_have_the_number_asked_for(sample_count: int, count: int) -> None:
    outline = peaks(np.full((sample_count, 2), 0.5, np.float32), count)
    assert outline.dtype == np.float32
    assert np.array_equal(outline, np.full((count, 2), 0.5 if sample_count else 0.0))


@pytest.mark.parametrize("frequency_hz", [100.0, 1_000.0, 8_000.0])
def test_a_tone_is_bright_at_its_height(frequency_hz: float) -> None:
    times = np.arange(RATE_HZ)[:, None] / RATE_HZ
    tone = np.repeat(0.5 * np.sin(2 * np.pi * frequency_hz * times), 2, axis=1).astype(np.float32)
    column = brightness(spectrogram_png(tone, RATE_HZ, 40, 200))[:, 20]
    row_hz = 30.0 * (24_000.0 / 30.0) ** (1 - (column.argmax() + 0.5) / 200)
    assert row_hz == pytest.approx(frequency_hz, rel=0.08)
    assert column.max() > 200
    assert np.median(column) < 60


def test_silence_between_sounds_is_dark() -> None:
    samples = two_tones(3 * RATE_HZ)
    samples[RATE_HZ : 2 * RATE_HZ] = 0
    picture = brightness(spectrogram_png(samples, RATE_HZ, 60, 50))
    assert picture[:, 25:35].max() < 15
    assert min(picture[:, 10].max(), picture[:, 50].max()) > 150


@pytest.mark.parametrize("sample_count", [0, 1, 100])
def test_short_and_broken_sounds_have_a_picture(sample_count: int) -> None:
    samples = np.full((sample_count, 2), np.nan, np.float32)
    assert brightness(spectrogram_png(samples, RATE_HZ, 30, 20)).shape == (20, 30)


@pytest.mark.parametrize(("width", "height", "field"), [(0, 10, "width"), (10, 5_000, "height")])
def test_a_wrong_size_is_refused(width: int, height: int, field: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field}: is .*; accepted: 1 to 4096"):
        spectrogram_png(two_tones(10), RATE_HZ, width, height)


def test_a_drawing_follows_the_outline_from_left_to_right_and_back() -> None:
    svg = waveform_svg(np.array([[-1.0, 0.5], [0.0, 1.0]], np.float32))
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == "0 0 2 2"
    assert root[0].attrib["points"] == "0,0.500 1,0.000 1,1.000 0,2.000"


def test_samples_in_a_file_are_looked_at_like_those_in_memory(tmp_path: Path) -> None:
    samples = two_tones(RATE_HZ)
    soundfile.write(tmp_path / "take.wav", samples, RATE_HZ, subtype="FLOAT")
    with StoredSamples(tmp_path / "take.wav") as stored:
        assert len(stored) == len(samples)
        assert np.array_equal(stored[5:9], samples[5:9])
        assert stored[9:5].shape == (0, 2)
        assert np.array_equal(peaks(stored, 70), peaks(samples, 70))
        assert spectrogram_png(stored, RATE_HZ, 40, 30) == spectrogram_png(samples, RATE_HZ, 40, 30)
