"""What the audio of all songs is: what models make, and what they take as a source."""

from __future__ import annotations

SAMPLE_RATE_HZ = 48_000
CHANNEL_COUNT = 2
