"""A status as an orchestrator would send it, with something in every part of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf import timestamp_pb2

from acestage.protobuf_times import duration, timestamp
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2
from acestage.protos.stage.v1 import stage_pb2

MIB = 1 << 20
NOW = datetime(2030, 1, 2, 12, 0, 0, tzinfo=UTC)


def stamp(before_now_s: float) -> timestamp_pb2.Timestamp:
    return timestamp(NOW - timedelta(seconds=before_now_s))


def process(name: str, pid: int, mib: int, device_mib: int = 0) -> stage_pb2.ProcessMemory:
    return stage_pb2.ProcessMemory(
        name=name,
        pid=pid,
        rss_bytes=mib * MIB,
        peak_rss_bytes=2 * mib * MIB,
        anonymous_bytes=mib * MIB // 4,
        device_bytes=device_mib * MIB,
    )


def hosted(name: str, mib: int) -> stage_pb2.StageModel:
    return stage_pb2.StageModel(model=stage_pb2.Model(name=name), dtype="bfloat16", weights_bytes=mib * MIB)


def stage(
    name: str,
    port: int,
    state: stage_pb2.WorkerState,
    *workers: stage_pb2.ProcessMemory,
    others: Sequence[stage_pb2.StageModel] = (),
) -> pb.StageStatus:
    is_busy = state == stage_pb2.WORKER_STATE_BUSY
    return pb.StageStatus(
        stage=name,
        target=f"127.0.0.1:{port}",
        is_serving=True,
        info=stage_pb2.GetStageInfoResponse(
            stage=name,
            models=[hosted("acestep-v15-turbo", 3005), *others],
            device="cuda:0",
            placed_model="acestep-v15-turbo",
            quantization="int8" if name == "dit" else "none",
            active_job_count=2 if is_busy else 0,
            worker_state=state,
            processes=[
                process(f"{name}/service", port + 1, 68),
                process(f"{name}/preload", port + 2, 400),
                *workers,
            ],
            device_memory=stage_pb2.DeviceMemory(
                device="cuda:0",
                name="NVIDIA GeForce GTX 1650",
                total_bytes=4096 * MIB,
                free_bytes=596 * MIB,
            ),
        ),
    )


def lease(
    holder: str, mib: int, token: int, *, state: str = "ACTIVE", is_idle: bool = False
) -> lease_pb2.Lease:
    return lease_pb2.Lease(
        lease_id=f"1-{token}",
        device="cuda:0",
        holder=holder,
        vram_bytes=mib * MIB,
        fencing_token=(1 << 32) | token,
        state=lease_pb2.LeaseState.Value(f"LEASE_STATE_{state}"),
        is_idle=is_idle,
        grant_time=stamp(12),
        remaining=duration(8),
    )


def ended_job(number: int, outcome: str, ago_s: float, batch_size: int = 1) -> pb.EndedJob:
    return pb.EndedJob(
        job_id=f"job{number:09d}",
        end_time=stamp(ago_s),
        total_time=duration(4.25),
        outcome=outcome,
        duration_s=90,
        batch_size=batch_size,
    )


def status_message() -> pb.GetStatusResponse:
    """The DiT works, the text encoder is warm, the VAE is down; somebody waits; three jobs ended."""
    worker = process("dit/worker", 4711, 3200, device_mib=3333)
    return pb.GetStatusResponse(
        version="9.8.7",
        start_time=stamp(11_220),
        stages=[
            stage("text_encoder", 50051, stage_pb2.WORKER_STATE_WARM),
            stage("dit", 50052, stage_pb2.WORKER_STATE_BUSY, worker),
            pb.StageStatus(stage="vae", target="127.0.0.1:50053", error="it does not answer within 2 s"),
        ],
        ledger=lease_pb2.ListLeasesResponse(
            leases=[
                lease("dit@studio:4700", 3005, 7),
                lease("text_encoder@studio:4600", 600, 6, is_idle=True),
                lease("other-program@studio:1", 100, 5, state="REVOKING", is_idle=True),
            ],
            waiters=[
                lease_pb2.LeaseWaiter(
                    device="cuda:0",
                    holder="vae@studio:4800",
                    vram_bytes=321 * MIB,
                    position=1,
                    waited=duration(3.25),
                )
            ],
            devices=[
                lease_pb2.LedgerDevice(
                    device="cuda:0", total_bytes=4000 * MIB, leased_bytes=3705 * MIB, is_exclusive=True
                ),
                lease_pb2.LedgerDevice(device="cuda:1", total_bytes=24576 * MIB),
            ],
            grace_remaining=duration(2.5),
        ),
        queue=pb.QueueStatus(
            running_count=1,
            queued_count=2,
            queue_max_count=200,
            succeeded_count=10,
            failed_count=4,
            cancelled_count=3,
        ),
        orchestrator_memory=process("orchestrator", 4500, 64),
        recent_jobs=[
            ended_job(3, "WORKER_CRASHED", 5),
            ended_job(2, "succeeded", 65, batch_size=2),
            ended_job(1, "cancelled", 7200),
        ],
    )
