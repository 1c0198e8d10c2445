"""Pictures of audio: the outline of its wave, and its spectrogram."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from acestage.errors import InvalidArgumentError
from services.gateway.exports.codec import Samples

LARGEST_SIDE = 4_096
"""How wide or high a picture may be, in pixels, and how many points an outline may have."""

_WINDOW_SAMPLES = 4_096
_WINDOWS_PER_COLUMN = 4
_COLUMNS_AT_ONCE = 32
_LOWEST_HZ = 30.0
_RANGE_DB = 90.0
_SILENCE = 1e-20

# From dark to light with even steps of lightness, by way of violet and orange, so that it reads in grey too.
_COLOURS = (
    (4, 3, 18),
    (42, 16, 88),
    (104, 28, 122),
    (168, 48, 108),
    (226, 88, 76),
    (250, 160, 72),
    (253, 246, 196),
)


class Sliceable(Protocol):
    """Samples [count, channels], in memory or elsewhere, of which parts are looked at."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Samples: ...


def peaks(samples: Sliceable, count: int) -> npt.NDArray[np.float32]:
    """The least and the largest sample [count, 2], over all channels, of `count` equal parts of `samples`.

    Where there are fewer samples than `count`, parts share them; of none, all is 0.
    """
    _check_side("count", count)
    outline = np.zeros((count, 2), np.float32)
    total = len(samples)
    for index in range(count if total else 0):
        start = index * total // count
        part = samples[start : max((index + 1) * total // count, start + 1)]
        outline[index] = part.min(), part.max()
    return np.nan_to_num(outline)


def waveform_svg(outline: npt.NDArray[np.float32]) -> str:
    """A drawing of `outline` [count, 2] as `peaks` gives it, as wide and high as its place, in full scale."""
    upper = [f"{x},{1 - high:.3f}" for x, (_, high) in enumerate(outline)]
    lower = [f"{x},{1 - low:.3f}" for x, (low, _) in reversed(list(enumerate(outline)))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(outline)} 2" width="900" height="60" '
        'preserveAspectRatio="none"><polygon fill="#a8306c" stroke="#a8306c" stroke-width="1" '
        f'vector-effect="non-scaling-stroke" points="{" ".join(upper + lower)}"/></svg>'
    )


def spectrogram_png(samples: Sliceable, sample_rate_hz: int, width: int, height: int) -> bytes:
    """A PNG: time to the right, frequency upwards from 30 Hz to half the rate, an octave as high everywhere.

    Colours span 90 dB below the loudest spot. Long pieces are not looked at in full: a column takes four
    windows of 4,096 samples, evenly spread over its time, and shows their mean.
    """
    _check_side("width", width)
    _check_side("height", height)
    weights = _row_weights(sample_rate_hz, height)
    power = np.zeros((height, width), np.float32)
    for start, spectra in _column_spectra(samples, width):
        power[:, start : start + len(spectra)] = weights @ spectra.T
    level_db = 10.0 * np.log10(np.maximum(power, _SILENCE))
    loudest_db = max(float(level_db.max()), 10.0 * np.log10(_SILENCE) + _RANGE_DB)
    shade = np.clip((level_db - loudest_db) / _RANGE_DB + 1.0, 0.0, 1.0)
    image = Image.fromarray(np.rint(shade[::-1] * 255.0).astype(np.uint8))
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _column_spectra(samples: Sliceable, width: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The first column and the power [columns, bins] of some columns at a time, over the channels."""
    total = len(samples)
    window = np.hanning(_WINDOW_SAMPLES).astype(np.float32)[:, None]
    scale = np.float32(1.0 / np.square(window).sum())
    for first in range(0, width, _COLUMNS_AT_ONCE):
        columns = range(first, min(first + _COLUMNS_AT_ONCE, width))
        spectra = np.zeros((len(columns), _WINDOW_SAMPLES // 2 + 1), np.float32)
        for spectrum, column in zip(spectra, columns, strict=True):
            for part in range(_WINDOWS_PER_COLUMN):
                centre = (column + (part + 0.5) / _WINDOWS_PER_COLUMN) * total / width
                piece = _window_at(samples, int(centre)) * window
                power = np.square(np.abs(np.fft.rfft(piece, axis=0))).mean(axis=1)
                spectrum += power.astype(np.float32) * (scale / _WINDOWS_PER_COLUMN)
        yield first, spectra


def _window_at(samples: Sliceable, centre: int) -> Samples:
    """One window [samples, channels] around `centre`; what is beyond the ends, or no number, is silence."""
    start = centre - _WINDOW_SAMPLES // 2
    piece = samples[max(start, 0) : max(start + _WINDOW_SAMPLES, 0)]
    before = max(-start, 0)
    after = _WINDOW_SAMPLES - before - len(piece)
    numbers: Samples = np.clip(np.nan_to_num(piece), -1.0, 1.0)
    padded: Samples = np.pad(numbers, ((before, after), (0, 0)))
    return padded


def _row_weights(sample_rate_hz: int, height: int) -> npt.NDArray[np.float32]:
    """How much [rows, bins] of each bin's power a row shows, lowest row first: the mean over the row's band.

    A band narrower than a bin takes from the two bins around it.
    """
    bin_count = _WINDOW_SAMPLES // 2 + 1
    bin_hz = sample_rate_hz / _WINDOW_SAMPLES
    edges = np.geomspace(_LOWEST_HZ, sample_rate_hz / 2, height + 1) / bin_hz
    centres = np.sqrt(edges[:-1] * edges[1:])[:, None]
    half_width = np.maximum(np.diff(edges) / 2, 1.0)[:, None]
    weights = np.maximum(1.0 - np.abs(np.arange(bin_count) - centres) / half_width, 0.0)
    means: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return means


def _palette() -> list[int]:
    anchors = np.array(_COLOURS, np.float64)
    places = np.linspace(0, 255, len(anchors))
    steps = np.stack([np.interp(np.arange(256), places, anchors[:, channel]) for channel in range(3)], axis=1)
    return [int(value) for value in np.rint(steps).ravel()]


def _check_side(field: str, value: int) -> None:
    if not 1 <= value <= LARGEST_SIDE:
        raise InvalidArgumentError.at(field, f"is {value}; accepted: 1 to {LARGEST_SIDE}")
