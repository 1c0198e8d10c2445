"""Records of jobs for the tests of the gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from acestage.generation_options import Adapter
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.order import JobOrder
from services.gateway.jobs.record import JobRecord, JobState, Progress, Take

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORDER = JobOrder(
    "warm piano",
    {"lyrics": "água", "seed": 7, "timesteps": [0.9, 0.5], "adapters": [Adapter("voice", 0.5)]},
    title="Água",
    audio_format=ExportFormat.flac,
    edge_fade_ms=5.0,
    notes=("thinking: no language model is served",),
)
TAKE = Take(
    seed=7,
    sample_count=96_000,
    sample_rate_hz=48_000,
    gain=0.5,
    peak=1.5,
    rms=0.1,
    samples_sha256="ab",
    master="take-0.wav",
    file="água-seed-7.flac",
    warnings=("is silent",),
)


def ended_record(job_id: str, *, ended_s: float = 0.0, state: JobState = JobState.SUCCEEDED) -> JobRecord:
    """A job that ended `ended_s` seconds after `START`."""
    return JobRecord(
        job_id,
        START,
        ORDER,
        state,
        progress=Progress(stage="vae", done_count=2, total_count=3),
        started_at=START,
        ended_at=START + timedelta(seconds=ended_s),
        settings={"caption": "warm piano", "seed": 7},
        takes=(TAKE,),
        run_s=1.5,
        stages=({"stage": "dit", "planned_bytes": 1},),
        clamped=({"field": "duration_s"},),
        idempotency_key="key",
    )
