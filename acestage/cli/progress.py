"""What a running generation looks like in the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from acestage.generation import (
    AudioChunk,
    GenerationEvent,
    JobQueued,
    PreviewCompleted,
    StageCompleted,
    StageProgress,
    StageStarted,
    StageWaiting,
)


class ProgressView:
    """A live bar for each stage from its first event on. Use as a context manager.

    Attributes:
        first_audio_s: seconds from entering until the song's first audio came; None before.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.first_audio_s: float | None = None
        self._clock = clock
        self._begun_s = 0.0
        self._has_job_id = False
        self._progress = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            get_time=clock,
        )
        self._tasks: dict[str, TaskID] = {}

    def hear(self, event: GenerationEvent) -> None:
        match event:
            case JobQueued(job_id, position):
                self._queued(job_id, position)
            case StageWaiting(stage, position):
                self._update(stage, state=f"waits for the device, place {position}")
            case StageStarted(stage, device, dtype, quantization=quantization):
                task = self._task(stage)
                self._progress.reset(task)  # it may have made the preview before
                self._progress.tasks[task].total = None
                weights = ", int8 weights" if quantization == "int8" else ""
                self._update(stage, state=f"on {device}, {dtype}{weights}")
            case StageProgress(stage, done_count, total_count):
                self._update(stage, completed=done_count, total=total_count)
            case StageCompleted(stage):
                task = self._task(stage)
                total = self._progress.tasks[task].total or 1
                self._update(stage, completed=total, total=total, state="done")
            case AudioChunk() if self.first_audio_s is None:
                self.first_audio_s = self._clock() - self._begun_s
                self._progress.console.print(f"First audio after {self.first_audio_s:.1f} s.")
            case PreviewCompleted(step_count=step_count):
                self._progress.console.print(f"Preview of {step_count} steps done.")

    def _queued(self, job_id: str, position: int) -> None:
        if not self._has_job_id:
            self._has_job_id = True
            self._progress.console.print(f"Job {job_id}.")
        if position:
            self._progress.console.print(f"In the queue: place {position}.")

    def _update(self, stage: str, **values: object) -> None:
        self._progress.update(self._task(stage), **values)  # type: ignore[arg-type]

    def _task(self, stage: str) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=None, start=False, state="")
            self._progress.start()
        return self._tasks[stage]

    def __enter__(self) -> Self:
        self._begun_s = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._progress.stop()
