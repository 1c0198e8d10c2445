"""What there is to say about a track once its last sample has passed: length, peak, gain, checksum."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.vae.v1.vae_pb2 import AudioChunk

TARGET_PEAK = 10.0 ** (-1.0 / 20.0)
"""-1 dBFS, the loudness that ACE-Step's reference pipeline normalises to."""

LEAST_PEAK = 1e-6
"""Keeps the gain of silence finite, as in the reference pipeline."""

SILENCE = 1e-5


class AudioMeter:
    """Measures the chunks of one track, which must come in order."""

    def __init__(self) -> None:
        self._sample_count = 0
        self._channel_count = 0
        self._sample_rate_hz = 0
        self._peak = 0.0
        self._square_sum = 0.0
        self._digest = hashlib.sha256()

    def add(self, chunk: AudioChunk) -> None:
        samples = np.frombuffer(chunk.samples, dtype="<f4")
        self._channel_count = chunk.channel_count
        self._sample_rate_hz = chunk.sample_rate_hz
        self._sample_count += samples.size // chunk.channel_count
        # `max` of Python drops NaN, numpy's keeps it.
        self._peak = float(np.maximum(self._peak, np.abs(samples).max()))
        self._square_sum += float(np.square(samples, dtype=np.float64).sum())
        self._digest.update(chunk.samples)

    def track(self, item_index: int, seed: int, *, keeps_level: bool = False) -> pb.Track:
        """The track's description, after its last chunk.

        Args:
            item_index: of the track in its batch.
            seed: that made it.
            keeps_level: the track is not normalised.
        """
        count = max(self._sample_count * self._channel_count, 1)
        rms = math.sqrt(self._square_sum / count)
        is_finite = math.isfinite(self._peak) and math.isfinite(rms)
        warnings = []
        if not is_finite:
            warnings.append("the audio has samples that are not finite; it was not normalised")
        elif self._peak < SILENCE and rms < SILENCE:
            warnings.append("the audio is silent")
        elif keeps_level and self._peak > 1:
            warnings.append(
                f"its peak is {self._peak:.2f} times full scale, which files of 16 and 24 bit cut off"
            )
        gain = 1.0 if keeps_level else TARGET_PEAK / max(self._peak, LEAST_PEAK)
        return pb.Track(
            item_index=item_index,
            seed=seed,
            sample_count=self._sample_count,
            channel_count=self._channel_count,
            sample_rate_hz=self._sample_rate_hz,
            gain=gain if is_finite else 1.0,
            peak=self._peak,
            rms=rms,
            samples_sha256=self._digest.digest(),
            warnings=warnings,
        )
