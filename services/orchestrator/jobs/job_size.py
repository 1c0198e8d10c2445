"""How large a job will be, as far as that is known before it runs."""

from __future__ import annotations

from dataclasses import dataclass

from acestage.song_audio import CHANNEL_COUNT, SAMPLE_RATE_HZ

_FRAME_BYTES = 4 * CHANNEL_COUNT


@dataclass(frozen=True, slots=True)
class JobSize:
    """What a job makes.

    Attributes:
        duration_s: of each take; 0 where it is not known.
        take_count: takes of the song.
    """

    duration_s: float
    take_count: int

    @property
    def audio_bytes(self) -> int:
        """Bytes of the samples of all takes, which are nearly all of a job's log; a preview comes on top."""
        return round(self.take_count * self.duration_s * SAMPLE_RATE_HZ) * _FRAME_BYTES
