"""What there is to say about a track once its last sample has passed: length, peak, gain, checksum."""

from __future__ import annotations

import math

import numpy as np

from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from services.orchestrator.song.sample_measure import SampleMeasure

TARGET_PEAK = 10.0 ** (-1.0 / 20.0)
"""-1 dBFS, the loudness that ACE-Step's reference pipeline normalises to."""

LEAST_PEAK = 1e-6
"""Keeps the gain of silence finite, as in the reference pipeline."""

SILENCE = 1e-5


class AudioMeter:
    """Measures the chunks of one track, which must come in order."""

    def __init__(self) -> None:
        self._measure = SampleMeasure()
        self._channel_count = 0
        self._sample_rate_hz = 0

    def add(self, chunk: AudioChunk) -> None:
        self._channel_count = chunk.channel_count
        self._sample_rate_hz = chunk.sample_rate_hz
        self._measure.add(np.frombuffer(chunk.samples, dtype="<f4").reshape(-1, chunk.channel_count))

    def track(self, item_index: int, seed: int, *, keeps_level: bool = False) -> pb.Track:
        """The track's description, after its last chunk.

        Args:
            item_index: number of the track in its batch.
            seed: what the track was made with.
            keeps_level: the track is not normalised.
        """
        peak, rms = self._measure.peak, self._measure.rms
        is_finite = math.isfinite(peak) and math.isfinite(rms)
        warnings = []
        if not is_finite:
            warnings.append("the audio has samples that are not finite; it was not normalised")
        elif peak < SILENCE and rms < SILENCE:
            warnings.append("the audio is silent")
        elif keeps_level and peak > 1:
            warnings.append(f"its peak is {peak:.2f} times full scale, which files of 16 and 24 bit cut off")
        gain = 1.0 if keeps_level else TARGET_PEAK / max(peak, LEAST_PEAK)
        return pb.Track(
            item_index=item_index,
            seed=seed,
            sample_count=self._measure.sample_count,
            channel_count=self._channel_count,
            sample_rate_hz=self._sample_rate_hz,
            gain=gain if is_finite else 1.0,
            peak=peak,
            rms=rms,
            samples_sha256=self._measure.digest.digest(),
            warnings=warnings,
        )
