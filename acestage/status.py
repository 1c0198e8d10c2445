"""How an orchestrator and its stages are, as `Client.status` says it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from acestage.generation import ProcessMemory
from acestage.protobuf_times import duration, seconds, timestamp
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2
from acestage.protos.stage.v1 import stage_pb2

SUCCEEDED = "succeeded"
CANCELLED = "cancelled"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device as a stage measures it, in bytes; of a simulated device, its simulated size."""

    device: str
    name: str
    total_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class StageModel:
    """A model that a stage hosts, with the bytes of its weights there in its data type.

    Attributes:
        knows_tracks: it can extract, add and complete single tracks.
    """

    name: str
    dtype: str
    weights_bytes: int
    knows_tracks: bool = False


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A stage. Where it does not serve, `error` says why and the rest is empty.

    Attributes:
        models: all that a request may ask for; the first is the default.
        placed_model: whose weights lie on the device, or empty; of models with the same weights for this
            stage, the first.
        device_memory: None where the stage cannot tell.
        worker_state: "asleep", "busy", "warm" (idle, with its weights on the device), or empty.
        quantization: "none", "int8", or empty.
    """

    stage: str
    target: str
    is_serving: bool
    error: str
    models: tuple[StageModel, ...]
    placed_model: str
    device: str
    active_job_count: int
    processes: tuple[ProcessMemory, ...]
    device_memory: DeviceStatus | None
    worker_state: str
    quantization: str


@dataclass(frozen=True, slots=True)
class LedgerDevice:
    """A device that the ledger has heard of; `total_bytes` is 0 where nobody said.

    Attributes:
        leased_bytes: of all leases together.
        is_exclusive: one holder at a time, however much is free.
    """

    device: str
    total_bytes: int
    leased_bytes: int
    is_exclusive: bool

    def to_pb(self) -> lease_pb2.LedgerDevice:
        return lease_pb2.LedgerDevice(
            device=self.device,
            total_bytes=self.total_bytes,
            leased_bytes=self.leased_bytes,
            is_exclusive=self.is_exclusive,
        )

    @classmethod
    def from_pb(cls, device: lease_pb2.LedgerDevice) -> LedgerDevice:
        return cls(device.device, device.total_bytes, device.leased_bytes, device.is_exclusive)


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Who holds a device.

    Attributes:
        state: "active", "revoking" or "quarantined".
        is_idle: the holder has no work and keeps its weights on the device; it leaves once somebody waits.
        age_s: since the grant, by the clock of this machine.
        remaining_s: until it expires unless it is renewed.
    """

    lease_id: str
    device: str
    holder: str
    vram_bytes: int
    fencing_token: int
    state: str
    is_idle: bool
    granted_at: datetime
    age_s: float
    remaining_s: float


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for a device, and for how long so far; position 1 is next."""

    device: str
    holder: str
    vram_bytes: int
    position: int
    waited_s: float


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
class EndedJob:
    """A job that ended.

    Attributes:
        total_s: from the request to the end.
        outcome: "succeeded", "cancelled", or the reason of the error, such as "WORKER_CRASHED".
        duration_s: of the music that was asked for; 0 where a job failed before that was known.
    """

    job_id: str
    ended_at: datetime
    total_s: float
    outcome: str
    duration_s: float
    batch_size: int

    @property
    def kind(self) -> str:
        """ "succeeded", "cancelled" or "failed"."""
        return self.outcome if self.outcome in (SUCCEEDED, CANCELLED) else FAILED

    def to_pb(self) -> pb.EndedJob:
        return pb.EndedJob(
            job_id=self.job_id,
            end_time=timestamp(self.ended_at),
            total_time=duration(self.total_s),
            outcome=self.outcome,
            duration_s=self.duration_s,
            batch_size=self.batch_size,
        )

    @classmethod
    def from_pb(cls, job: pb.EndedJob) -> EndedJob:
        return cls(
            job_id=job.job_id,
            ended_at=job.end_time.ToDatetime(UTC),
            total_s=seconds(job.total_time),
            outcome=job.outcome,
            duration_s=job.duration_s,
            batch_size=job.batch_size,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """Services, devices, ledger and queue at one moment.

    Attributes:
        taken_at: that moment, by the clock of this machine.
        devices: every device of the stages, once.
        grace_remaining_s: for so long the ledger, which has just started, grants nothing.
        recent_jobs: the last jobs that ended, the newest first.
    """

    version: str
    started_at: datetime
    taken_at: datetime
    devices: tuple[DeviceStatus, ...]
    stages: tuple[StageStatus, ...]
    ledger_devices: tuple[LedgerDevice, ...]
    leases: tuple[LeaseStatus, ...]
    waiters: tuple[Waiter, ...]
    grace_remaining_s: float
    queue: QueueStatus
    recent_jobs: tuple[EndedJob, ...]
    orchestrator: ProcessMemory

    @property
    def served_models(self) -> list[str]:
        """Names of the models that every stage serves; the first is the default."""
        hosted = [[model.name for model in stage.models] for stage in self.stages]
        return [name for name in hosted[0] if all(name in names for names in hosted)] if hosted else []

    @property
    def has_tracks_model(self) -> bool:
        """Whether a model is served that can extract, add and complete single tracks."""
        served = self.served_models
        return any(m.knows_tracks and m.name in served for stage in self.stages for m in stage.models)


def status_from_pb(status: pb.GetStatusResponse, now: datetime | None = None) -> Status:
    """The status that was read at `now` (None: this moment)."""
    taken_at = now or datetime.now(UTC)
    queue = status.queue
    ledger = status.ledger
    stages = tuple(_stage(stage) for stage in status.stages)
    devices: dict[str, DeviceStatus] = {}
    for stage in stages:
        if stage.device_memory is not None:
            devices.setdefault(stage.device_memory.device, stage.device_memory)
    return Status(
        version=status.version,
        started_at=status.start_time.ToDatetime(UTC),
        taken_at=taken_at,
        devices=tuple(devices.values()),
        stages=stages,
        ledger_devices=tuple(LedgerDevice.from_pb(device) for device in ledger.devices),
        leases=tuple(_lease(lease, taken_at) for lease in ledger.leases),
        waiters=tuple(
            Waiter(w.device, w.holder, w.vram_bytes, w.position, seconds(w.waited)) for w in ledger.waiters
        ),
        grace_remaining_s=seconds(ledger.grace_remaining),
        queue=QueueStatus(
            running_count=queue.running_count,
            queued_count=queue.queued_count,
            queue_max_count=queue.queue_max_count,
            succeeded_count=queue.succeeded_count,
            failed_count=queue.failed_count,
            cancelled_count=queue.cancelled_count,
        ),
        recent_jobs=tuple(EndedJob.from_pb(job) for job in status.recent_jobs),
        orchestrator=ProcessMemory.from_pb(status.orchestrator_memory),
    )


def _stage(stage: pb.StageStatus) -> StageStatus:
    info = stage.info
    worker_state = stage_pb2.WorkerState.Name(info.worker_state).removeprefix("WORKER_STATE_").lower()
    return StageStatus(
        stage=stage.stage,
        target=stage.target,
        is_serving=stage.is_serving,
        error=stage.error,
        models=tuple(
            StageModel(hosted.model.name, hosted.dtype, hosted.weights_bytes, hosted.model.knows_tracks)
            for hosted in info.models
        ),
        placed_model=info.placed_model,
        device=info.device,
        active_job_count=info.active_job_count,
        processes=tuple(ProcessMemory.from_pb(process) for process in info.processes),
        device_memory=_device(info.device_memory) if info.HasField("device_memory") else None,
        worker_state="" if worker_state == "unspecified" else worker_state,
        quantization=info.quantization,
    )


def _device(memory: stage_pb2.DeviceMemory) -> DeviceStatus:
    used_bytes = memory.total_bytes - memory.free_bytes
    return DeviceStatus(memory.device, memory.name, memory.total_bytes, used_bytes, memory.free_bytes)


def _lease(lease: lease_pb2.Lease, now: datetime) -> LeaseStatus:
    granted_at = lease.grant_time.ToDatetime(UTC)
    return LeaseStatus(
        lease_id=lease.lease_id,
        device=lease.device,
        holder=lease.holder,
        vram_bytes=lease.vram_bytes,
        fencing_token=lease.fencing_token,
        state=lease_pb2.LeaseState.Name(lease.state).removeprefix("LEASE_STATE_").lower(),
        is_idle=lease.is_idle,
        granted_at=granted_at,
        age_s=max(0.0, (now - granted_at).total_seconds()),
        remaining_s=seconds(lease.remaining),
    )
