"""Audio to export, and what a player hears of an exported file."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np

from services.gateway.exports.codec import Samples

RATE_HZ = 48_000


def two_tones(sample_count: int) -> Samples:
    """440 Hz on the left, 1 kHz on the right [sample_count, 2]."""
    times = np.arange(sample_count)[:, None] / RATE_HZ
    return (np.array([0.5, 0.4]) * np.sin(2 * np.pi * np.array([440.0, 1_000.0]) * times)).astype(np.float32)


def heard(source: Path | bytes) -> Samples:
    """The samples [count, 2] that libavcodec decodes."""
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with av.open(file) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE_HZ)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T


def loudest_hz(samples: Samples) -> list[float]:
    """Of each channel, to half a hertz for a second of sound."""
    spectra = np.abs(np.fft.rfft(samples * np.hanning(len(samples))[:, None], axis=0))
    return [float(peak) * RATE_HZ / len(samples) for peak in spectra.argmax(axis=0)]
