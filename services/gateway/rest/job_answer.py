"""A job as clients see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobRecord, JobState, Take
from services.gateway.rest.orders.field_names import limited_field


class ProgressAnswer(BaseModel):
    """Where a job is."""

    stage: str = Field(description='"text_encoder", "dit" or "vae"; empty before the first.')
    step: int = Field(description="Steps or tiles done.")
    step_count: int = Field(description="Of so many; 0 before the first is done.")
    fraction: float = Field(description="How much of the job is done, by time; 1 once it has succeeded.")
    stage_left_s: float | None = Field(description="Seconds until the stage is done, where known.")
    device_position: int | None = Field(description="In line for the device, 1 is next; null on it.")
    queue_position: int | None = Field(description="In the queue, 1 is next; null once it runs.")
    starts_in_s: float | None = Field(description="Seconds until it starts, about, where known.")


class TakeAnswer(BaseModel):
    """A finished take. URLs are relative to the server's root."""

    seed: int
    duration_s: float
    sample_count: int
    sample_rate_hz: int
    gain: float = Field(description="What samples were multiplied by to normalise them.")
    peak: float = Field(description="Before the gain; likewise `rms`.")
    rms: float
    samples_sha256: str
    files: dict[str, str] = Field(description="A URL for each format that can be written here.")
    waveform: str
    spectrogram: str
    settings: str
    warnings: list[str]


class ClampedAnswer(BaseModel):
    """A value that was lowered to a limit."""

    field: str
    requested: float
    limit: float
    source: str = Field(description="What set the limit.")


class FailureAnswer(BaseModel):
    """Why there is no result."""

    reason: str
    message: str


class JobAnswer(BaseModel):
    """A job."""

    job_id: str
    state: JobState
    title: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    run_s: float | None = Field(description="Seconds of work, without the queue.")
    progress: ProgressAnswer
    seeds: list[int] = Field(description="Those that were used, once it has ended; else those asked for.")
    settings: dict[str, Any] | None = Field(description="All that were used; null before the end.")
    takes: list[TakeAnswer]
    audio: str = Field(description="The first take, in the ordered format; also while it is decoded.")
    events: str
    warnings: list[str]
    clamped: list[ClampedAnswer]
    notes: list[str] = Field(description="What of the request was left out, and why.")
    failure: FailureAnswer | None


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobAnswer]
    total_count: int = Field(description="Of all that were asked for, those that are left out here too.")


class WaveformAnswer(BaseModel):
    """The outline of a take."""

    duration_s: float
    peaks: list[tuple[float, float]] = Field(description="The least and the largest sample of equal parts.")


def job_answer(job: Job, gateway: Gateway) -> JobAnswer:
    """What there is to say of `job`."""
    record = job.record
    return JobAnswer(
        job_id=record.job_id,
        state=record.state,
        title=record.order.name,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        run_s=record.run_s,
        progress=_progress(record, gateway),
        seeds=_seeds(record),
        settings=record.settings,
        takes=[_take(record, index, take, gateway) for index, take in enumerate(record.takes)],
        audio=_url(record, f"audio?format={record.order.audio_format}&take=0"),
        events=_url(record, "events"),
        warnings=record.warnings,
        clamped=[
            ClampedAnswer(
                field=limited_field(clamped["field"]),
                requested=clamped["requested"],
                limit=clamped["limit"]["value"],
                source=clamped["limit"]["source"],
            )
            for clamped in record.clamped
        ],
        notes=list(record.order.notes),
        failure=FailureAnswer(reason=record.failure.reason, message=record.failure.message)
        if record.failure
        else None,
    )


def _progress(record: JobRecord, gateway: Gateway) -> ProgressAnswer:
    progress = record.progress
    position = progress.queue_position if record.state is JobState.QUEUED else 0
    return ProgressAnswer(
        stage=progress.stage,
        step=progress.done_count,
        step_count=progress.total_count,
        fraction=round(record.fraction, 3),
        stage_left_s=progress.stage_left_s,
        device_position=progress.device_position if progress.is_waiting else None,
        queue_position=position or None,
        starts_in_s=gateway.book.starts_in_s(position) if position else None,
    )


def _seeds(record: JobRecord) -> list[int]:
    if record.takes:
        return [take.seed for take in record.takes]
    options = record.order.options
    if seeds := options.get("seeds"):
        return list(seeds)
    seed = options.get("seed", -1)
    return [] if seed < 0 else [seed + index for index in range(record.order.take_count)]


def _take(record: JobRecord, index: int, take: Take, gateway: Gateway) -> TakeAnswer:
    return TakeAnswer(
        seed=take.seed,
        duration_s=take.duration_s,
        sample_count=take.sample_count,
        sample_rate_hz=take.sample_rate_hz,
        gain=take.gain,
        peak=take.peak,
        rms=take.rms,
        samples_sha256=take.samples_sha256,
        files={
            name.value: _url(record, f"audio?format={name}&take={index}")
            for name, fault in gateway.formats.items()
            if not fault
        },
        waveform=_url(record, f"waveform?take={index}"),
        spectrogram=_url(record, f"spectrogram.png?take={index}"),
        settings=_url(record, f"settings?take={index}"),
        warnings=list(take.warnings),
    )


def _url(record: JobRecord, rest: str) -> str:
    return f"/v1/jobs/{record.job_id}/{rest}"
