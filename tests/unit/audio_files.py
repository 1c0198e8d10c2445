"""Audio files for tests, in memory."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]


def tone(
    duration_s: float, sample_rate_hz: int, *levels: float, frequency_hz: float = 440.0
) -> npt.NDArray[np.float32]:
    """A sine [samples, channels], in each channel at one of `levels`."""
    times = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    wave = np.sin(2 * np.pi * frequency_hz * times)
    return (wave[:, None] * np.array(levels)).astype(np.float32)


def encoded(
    samples: Samples, sample_rate_hz: int, audio_format: str = "WAV", subtype: str | None = None
) -> bytes:
    """The bytes of a file of `samples`."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate_hz, format=audio_format, subtype=subtype)
    return file.getvalue()
