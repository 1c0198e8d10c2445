"""What a stage says while it works on a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from acestage.generation import ProcessMemory
from services.runtime.jobs.job_budget import Adaptation
from services.runtime.workers.messages import Message


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits in line for the device; 1 is next."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The job holds the device. After a failed attempt it may say so again."""

    lease_id: str
    fencing_token: int
    device: str
    dtype: str
    quantization: str
    vram_bytes: int
    was_warm: bool
    lease_wait_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the finished job cost; times in seconds, memory in bytes.

    Attributes:
        kernels: "compiled" or "eager", "mixed" where a worker was replaced in between, or empty where the
            stage has none.
    """

    lease_id: str
    fencing_token: int
    started_at: datetime
    ended_at: datetime
    load_s: float
    compute_s: float
    kernels: str
    processes: tuple[ProcessMemory, ...]
    peak_device_bytes: int
    planned_bytes: int
    adaptations: tuple[Adaptation, ...]


StageEvent = Queued | Started | Message | Report
