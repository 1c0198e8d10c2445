"""Songs that are generated for a measurement, and how that went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from acestage import AsyncClient
from acestage.generation import AudioChunk, Generation, StageCompleted, StageProgress, StageStarted
from acestage.generation_options import GenerationOptions

CAPTION = "warm lo-fi piano, rain"

SONG_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Wake:
    """A stage's start on the device; `load_s` until its weights were there."""

    stage: str
    is_warm: bool
    load_s: float
    lease_wait_s: float
    compute_s: float


@dataclass(slots=True)
class Song:
    """How a song was made; seconds count from its request.

    Attributes:
        last_step_s: until the last denoising step was done.
        first_audio_s: until the first samples came; 0 where none did.
        total_s: until it was complete.
        starts: of its stages.
        reports: of its stages.
    """

    last_step_s: float = 0.0
    first_audio_s: float = 0.0
    total_s: float = 0.0
    starts: list[StageStarted] = field(default_factory=list)
    reports: list[StageCompleted] = field(default_factory=list)

    @property
    def wakes(self) -> list[Wake]:
        """The start of each stage, with what its report says."""
        return [
            Wake(start.stage, start.was_warm, report.load_s, start.lease_wait_s, report.compute_s)
            for start, report in zip(self.starts, self.reports, strict=True)
        ]

    @property
    def swap_count(self) -> int:
        """Times that a stage had to bring its weights."""
        return sum(not start.was_warm for start in self.starts)

    @property
    def lease_wait_s(self) -> float:
        """What its stages waited for the device, together."""
        return sum(start.lease_wait_s for start in self.starts)

    @property
    def load_s(self) -> float:
        """What its stages waited for their weights, together."""
        return sum(report.load_s for report in self.reports)

    @property
    def compute_s(self) -> float:
        return sum(report.compute_s for report in self.reports)


async def sing(client: AsyncClient, options: GenerationOptions, caption: str = CAPTION) -> Song:
    """Generates one song."""
    song = Song()
    begun = time.monotonic()
    async with aclosing(_events(client, options, caption)) as events:
        async for event in events:
            match event:
                case StageStarted():
                    song.starts.append(event)
                case StageCompleted():
                    song.reports.append(event)
                case StageProgress(stage="dit"):
                    song.last_step_s = time.monotonic() - begun
                case AudioChunk() if not song.first_audio_s:
                    song.first_audio_s = time.monotonic() - begun
                case Generation():
                    song.total_s = time.monotonic() - begun
    return song


async def sing_together(client: AsyncClient, options: GenerationOptions, count: int) -> list[Song]:
    """Generates `count` songs that are asked for at the same time."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_sing_number(client, options, index)) for index in range(count)]
    return [task.result() for task in tasks]


async def sing_in_turn(client: AsyncClient, options: GenerationOptions, count: int) -> list[Song]:
    """Generates `count` songs, each asked for once the one before is complete."""
    return [await _sing_number(client, options, index) for index in range(count)]


def numbered_caption(number: int) -> str:
    """The caption of song `number`: with the one of another song it would need no text encoder."""
    return f"{CAPTION}, take {number}"


async def _sing_number(client: AsyncClient, options: GenerationOptions, number: int) -> Song:
    return await sing(client, {**options, "seed": number}, numbered_caption(number))


def _events(client: AsyncClient, options: GenerationOptions, caption: str) -> AsyncGenerator[object, None]:
    return client.stream(caption, timeout_s=SONG_TIMEOUT_S, **options)
