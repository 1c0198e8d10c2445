"""How an orchestrator and its stages are, as `Client.status` says it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from acestage.generation import ProcessMemory
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2
from acestage.protos.stage.v1 import stage_pb2


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A stage. Where it does not serve, `error` says why and the rest is empty."""

    stage: str
    target: str
    is_serving: bool
    error: str
    model: str
    device: str
    dtype: str
    weights_bytes: int
    active_job_count: int
    processes: tuple[ProcessMemory, ...]


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Who holds a device; `state` is "active", "revoking" or "quarantined"."""

    device: str
    holder: str
    vram_bytes: int
    fencing_token: int
    state: str
    granted_at: datetime
    remaining_s: float


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for a device; position 1 is next."""

    device: str
    holder: str
    vram_bytes: int
    position: int


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The orchestrator's jobs."""

    running_count: int
    queued_count: int
    queue_max_count: int
    succeeded_count: int
    failed_count: int
    cancelled_count: int


@dataclass(frozen=True, slots=True)
class Status:
    """Services, ledger and queue at one moment."""

    version: str
    started_at: datetime
    stages: tuple[StageStatus, ...]
    leases: tuple[LeaseStatus, ...]
    waiters: tuple[Waiter, ...]
    queue: QueueStatus
    orchestrator: ProcessMemory


def status_from_pb(status: pb.GetStatusResponse) -> Status:
    queue = status.queue
    return Status(
        version=status.version,
        started_at=status.start_time.ToDatetime(UTC),
        stages=tuple(_stage(stage) for stage in status.stages),
        leases=tuple(_lease(lease) for lease in status.ledger.leases),
        waiters=tuple(Waiter(w.device, w.holder, w.vram_bytes, w.position) for w in status.ledger.waiters),
        queue=QueueStatus(
            running_count=queue.running_count,
            queued_count=queue.queued_count,
            queue_max_count=queue.queue_max_count,
            succeeded_count=queue.succeeded_count,
            failed_count=queue.failed_count,
            cancelled_count=queue.cancelled_count,
        ),
        orchestrator=memory_from_pb(status.orchestrator_memory),
    )


def _stage(stage: pb.StageStatus) -> StageStatus:
    info = stage.info
    return StageStatus(
        stage=stage.stage,
        target=stage.target,
        is_serving=stage.is_serving,
        error=stage.error,
        model=info.model.name,
        device=info.device,
        dtype=info.dtype,
        weights_bytes=info.weights_bytes,
        active_job_count=info.active_job_count,
        processes=tuple(memory_from_pb(process) for process in info.processes),
    )


def _lease(lease: lease_pb2.Lease) -> LeaseStatus:
    return LeaseStatus(
        device=lease.device,
        holder=lease.holder,
        vram_bytes=lease.vram_bytes,
        fencing_token=lease.fencing_token,
        state=lease_pb2.LeaseState.Name(lease.state).removeprefix("LEASE_STATE_").lower(),
        granted_at=lease.grant_time.ToDatetime(UTC),
        remaining_s=lease.remaining.ToNanoseconds() / 1e9,
    )


def memory_from_pb(process: stage_pb2.ProcessMemory) -> ProcessMemory:
    return ProcessMemory(process.name, process.pid, process.rss_bytes, process.peak_rss_bytes)
