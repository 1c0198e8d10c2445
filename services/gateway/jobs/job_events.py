"""What the orchestrator says of a job, as an event of a front door and as progress."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from acestage.generation import (
    AudioChunk,
    Generation,
    GenerationEvent,
    JobQueued,
    StageCompleted,
    StageProgress,
    StageStarted,
    StageWaiting,
)
from services.gateway.jobs.job import JobEvent
from services.gateway.jobs.pace import StagePace
from services.gateway.jobs.record import Progress
from services.gateway.jobs.work_done import WorkDone

_NAMES: dict[type, str] = {
    JobQueued: "queued",
    StageWaiting: "stage_waiting",
    StageStarted: "stage_started",
    StageProgress: "progress",
    StageCompleted: "stage_completed",
    AudioChunk: "audio",
}


def to_job_event(event: GenerationEvent) -> JobEvent:
    """`event` for listeners, with where audio is in the place of its samples."""
    name = _NAMES[type(event)]
    match event:
        case AudioChunk():
            data: dict[str, Any] = {
                "take": event.item_index,
                "start_sample": event.start_sample,
                "sample_count": len(event.samples),
                "sample_rate_hz": event.sample_rate_hz,
            }
        case Generation():  # its end has the record, which knows the files
            raise TypeError("the end of a job is no event of the orchestrator's")
        case _:
            data = plain(asdict(event))
    return JobEvent(name, data)


class JobCourse:
    """Where one job is, from what it says. Takes the time as an argument.

    Args:
        work: how much of it is done, from the beginning on.
    """

    def __init__(self, work: WorkDone) -> None:
        self._work = work
        self._pace = StagePace()

    def after(self, before: Progress, event: GenerationEvent, now_s: float) -> Progress:
        """Where it is once it has said `event`."""
        fraction = self._work.after(event)
        return replace(self._place(before, event, now_s), fraction=fraction)

    def _place(self, before: Progress, event: GenerationEvent, now_s: float) -> Progress:
        match event:
            case JobQueued():
                return replace(before, queue_position=event.position)
            case StageWaiting():
                return Progress(
                    stage=event.stage,
                    is_waiting=True,
                    device_position=event.position,
                    is_source=self._work.is_encode(event.stage),
                )
            case StageStarted():
                return Progress(stage=event.stage, is_source=self._work.is_encode(event.stage))
            case StageProgress():
                left_s = self._pace.left_s(event.stage, event.done_count, event.total_count, now_s)
                if left_s is None and event.stage == before.stage:
                    left_s = before.stage_left_s
                return Progress(
                    stage=event.stage,
                    done_count=event.done_count,
                    total_count=event.total_count,
                    stage_left_s=left_s,
                    is_source=self._work.is_encode(event.stage),
                )
            case _:
                return before


def plain(value: Any) -> Any:
    """`value` with times as text and tuples as lists, as JSON has them."""
    match value:
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case datetime():
            return value.isoformat()
        case _:
            return value
