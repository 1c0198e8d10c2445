"""What there is to say about audio that was taken in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from acestage.protos.audio.v1 import audio_pb2 as pb
from acestage.song_audio import CHANNEL_COUNT, SAMPLE_RATE_HZ

LEAST_DURATION_S = 1
"""Seconds that an upload, or a song from audio codes, lasts at least."""


@dataclass(frozen=True, slots=True)
class RawFormat:
    """What bare samples are: interleaved little-endian float32."""

    sample_rate_hz: int
    channel_count: int


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Audio as the model gets it: 48 kHz stereo, float32.

    Attributes:
        audio_id: "a" and the first 32 hex digits of the samples' SHA-256.
        sample_count: per channel.
        peak: the largest absolute sample; full scale is 1.
        rms: over both channels.
        original_format: for people, such as "WAV PCM_16".
        original_sample_rate_hz: before resampling.
        original_channel_count: before mixing.
        warnings: for people.
    """

    audio_id: str
    sample_count: int
    peak: float
    rms: float
    original_format: str
    original_sample_rate_hz: int
    original_channel_count: int
    warnings: tuple[str, ...] = ()

    sample_rate_hz: ClassVar[int] = SAMPLE_RATE_HZ
    channel_count: ClassVar[int] = CHANNEL_COUNT

    @property
    def duration_s(self) -> float:
        return self.sample_count / self.sample_rate_hz

    @property
    def samples_bytes(self) -> int:
        """Bytes of all samples."""
        return self.sample_count * self.channel_count * 4

    def to_pb(self) -> pb.Audio:
        return pb.Audio(
            audio_id=self.audio_id,
            duration_s=self.duration_s,
            sample_count=self.sample_count,
            sample_rate_hz=self.sample_rate_hz,
            channel_count=self.channel_count,
            original_format=self.original_format,
            original_sample_rate_hz=self.original_sample_rate_hz,
            original_channel_count=self.original_channel_count,
            peak=self.peak,
            rms=self.rms,
            warnings=self.warnings,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> AudioFacts:
        """The facts that `to_json` wrote.

        Raises:
            ValueError: it did not write this.
        """
        values = json.loads(text)
        try:
            facts = cls(**values | {"warnings": tuple(values["warnings"])})
            is_sound = facts.sample_count > 0
        except (TypeError, KeyError) as error:
            raise ValueError(f"these are no facts of audio: {error!r}") from error
        if not is_sound:
            raise ValueError("these are no facts of audio: a count is not positive")
        return facts
