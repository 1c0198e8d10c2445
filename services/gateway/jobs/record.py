"""How a job stands, in words that can be kept on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from services.gateway.jobs.order import JobOrder, known_values


class JobState(StrEnum):
    """What has become of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is.

    Attributes:
        stage: "text_encoder", "dit" or "vae"; empty before the first one.
        is_waiting: the stage waits for the device, at `device_position` in line (1 is next).
        done_count: steps or tiles of `total_count`; 0 of 0 before the first one.
        queue_position: in the orchestrator's queue, 1 is next; 0 when the job runs.
        stage_left_s: seconds until the stage is done, from its own pace; None before that is known.
        is_source: the "vae" reads what the song is made from, rather than decoding it.
        is_writing: all stages are done, and the files are being written.
        fraction: how much of the job is done, by the time that its parts are expected to take.
    """

    stage: str = ""
    is_waiting: bool = False
    device_position: int = 0
    done_count: int = 0
    total_count: int = 0
    queue_position: int = 0
    stage_left_s: float | None = None
    is_source: bool = False
    is_writing: bool = False
    fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no result: the reason of the error, as in `acestage.errors`, and a text for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Take:
    """A finished take.

    Attributes:
        file: name of the file in the ordered format, in the job's folder; empty where the export failed, and
            then the master is all there is.
        master: name of the WAV of 32-bit float samples, normalised.
        gain: what the samples were multiplied by to normalise them.
        warnings: for people: silence, an export that failed.
    """

    seed: int
    sample_count: int
    sample_rate_hz: int
    gain: float
    peak: float
    rms: float
    samples_sha256: str
    master: str
    file: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        return self.sample_count / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that is known of a job.

    Attributes:
        job_id: the orchestrator's.
        settings: every setting that was used, defaults included; None before the end.
        run_s: seconds of work, without the queue.
        idempotency_key: which the client gave, or empty.
        clamped: values that were lowered to a limit.
        event_count: how many events listeners could hear; 0 before the end.
    """

    job_id: str
    created_at: datetime
    order: JobOrder
    state: JobState = JobState.QUEUED
    progress: Progress = field(default_factory=Progress)
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failure: Failure | None = None
    settings: dict[str, Any] | None = None
    takes: tuple[Take, ...] = ()
    run_s: float | None = None
    stages: tuple[dict[str, Any], ...] = ()
    clamped: tuple[dict[str, Any], ...] = ()
    idempotency_key: str = ""
    event_count: int = 0

    @property
    def took_s(self) -> float | None:
        """Seconds from the start of the work until the files were there; None where it has not ended so."""
        if self.started_at is None or self.ended_at is None:
            return self.run_s
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def warnings(self) -> list[str]:
        """Each once, although takes may share them."""
        return list(dict.fromkeys(warning for take in self.takes for warning in take.warnings))

    @property
    def fraction(self) -> float:
        """How much of the job is done: 1 once it has succeeded, and not before."""
        return 1.0 if self.state is JobState.SUCCEEDED else self.progress.fraction

    def failed(self, reason: str, message: str, at: datetime) -> Self:
        return replace(
            self,
            state=JobState.FAILED,
            progress=replace(self.progress, is_writing=False),
            failure=Failure(reason, message),
            ended_at=at,
        )

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` makes the same record of it."""
        return asdict(self) | {
            "created_at": _text(self.created_at),
            "started_at": _text(self.started_at),
            "ended_at": _text(self.ended_at),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises `ValueError`, `TypeError` or `KeyError` where `values` are no record."""
        return cls(
            **known_values(cls, values)
            | {
                "order": JobOrder.from_dict(values["order"]),
                "state": JobState(values["state"]),
                "progress": Progress(**known_values(Progress, values["progress"])),
                "created_at": datetime.fromisoformat(values["created_at"]),
                "started_at": _time(values["started_at"]),
                "ended_at": _time(values["ended_at"]),
                "failure": Failure(**known_values(Failure, values["failure"])) if values["failure"] else None,
                "takes": tuple(
                    Take(**known_values(Take, take) | {"warnings": tuple(take["warnings"])})
                    for take in values["takes"]
                ),
                "stages": tuple(values["stages"]),
                "clamped": tuple(values["clamped"]),
            }
        )


def now() -> datetime:
    return datetime.now(UTC)


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
