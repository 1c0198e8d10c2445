"""`python -m services.orchestrator`."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, nullcontext
from typing import TypeVar

from acestage.access import Access
from acestage.protos.audio.v1 import audio_pb2_grpc
from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.protos.lease.v1 import lease_pb2_grpc
from acestage.settings import Settings
from services.orchestrator.jobs.job_history import JobHistory
from services.orchestrator.jobs.job_queue import JobQueue
from services.orchestrator.jobs.jobs_at_once import jobs_at_once
from services.orchestrator.ledger.epoch import close_epoch, next_epoch, sole_ledger
from services.orchestrator.ledger.lease_service import LeaseService
from services.orchestrator.ledger.lessor import Lessor
from services.orchestrator.metrics import Metrics, StatusCollector
from services.orchestrator.metrics_server import metrics_server
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.service import GenerationService
from services.orchestrator.stage_clients import DitClient, StageClient, TextEncoderClient, VaeClient
from services.orchestrator.uploads.audio_service import AudioService
from services.orchestrator.uploads.audio_store import AudioStore
from services.orchestrator.uploads.retention import drop_by_age
from services.runtime.devices.device_lock import Fences
from services.runtime.processes import flags, logs
from services.runtime.processes.finishing import end
from services.runtime.processes.parent_death import die_with_parent
from services.runtime.rpc.channels import channel_between_services
from services.runtime.rpc.server import Server, run_service, until_stopped

log = logging.getLogger(__name__)

ClientT = TypeVar("ClientT", bound=StageClient)

SERVICE_NAMES = (
    "acestage.audio.v1.AudioService",
    "acestage.generation.v1.GenerationService",
    "acestage.lease.v1.LeaseService",
)

CONFIRM_S = 3.0
"""A holder renews its lease as soon as it has it; one that does not is gone."""


async def serve(settings: Settings) -> None:
    """Serves the orchestrator until SIGTERM or SIGINT.

    Raises:
        FailedPreconditionError: another orchestrator has the run folder, the address would be open to all,
            the port is taken, or the folder of uploaded audio cannot be used.
    """
    with sole_ledger(settings.run_dir), closing(Fences(settings.run_dir)) as fences:
        epoch = next_epoch(settings.run_dir)
        lessor = Lessor(
            epoch=epoch.number,
            ttl_s=settings.lease_ttl_s,
            confirm_s=CONFIRM_S,
            grace_until=time.monotonic() + settings.lease_ttl_s if epoch.has_holders_before else None,
            is_exclusive=settings.offload_to_cpu is True,
        )
        leases = LeaseService(lessor, fences.shut_out)
        try:
            with closing(AudioStore(settings.tmp_dir / "audio", settings.max_audio_bytes)) as store:
                await _serve_jobs(settings, leases, store)
        finally:
            # In its grace it does not know yet who holds what.
            if leases.is_idle and not lessor.grace_remaining_s(time.monotonic()):
                close_epoch(settings.run_dir, epoch.number)


async def _serve_jobs(settings: Settings, leases: LeaseService, store: AudioStore) -> None:
    metrics = Metrics()
    port = settings.orchestrator_port if settings.port is None else settings.port
    server = Server("orchestrator", SERVICE_NAMES, settings, port)
    async with (
        open_client(TextEncoderClient, "text_encoder", settings) as text_encoder,
        open_client(DitClient, "dit", settings) as dit,
        open_client(VaeClient, "vae", settings) as vae,
    ):
        on_event = metrics.count_stage_event
        pipeline = Pipeline(text_encoder, dit, vae, store, settings, on_stage_event=on_event)
        queue = JobQueue(
            max_count=settings.queue_max_count,
            slot_count=lambda: settings.concurrent_job_count or jobs_at_once(pipeline.limits.devices()),
        )
        generation = GenerationService(pipeline, queue, leases, JobHistory(metrics.count_job))
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, server.grpc)
        lease_pb2_grpc.add_LeaseServiceServicer_to_server(leases, server.grpc)
        audio_pb2_grpc.add_AudioServiceServicer_to_server(AudioService(store), server.grpc)
        metrics.registry.register(StatusCollector(generation.status, asyncio.get_running_loop()))
        await server.start()
        ledger = asyncio.create_task(leases.run())
        retention = asyncio.create_task(drop_by_age(store, settings.max_audio_age_h * 3600))
        try:
            async with _metrics_server(metrics, settings):
                await server.set_serving(True)
                await until_stopped(ledger, retention)
        finally:
            await server.stop()
            await generation.close()
            await end(retention)
            await end(ledger)


@asynccontextmanager
async def open_client(
    client: Callable[..., ClientT], stage: str, settings: Settings
) -> AsyncIterator[ClientT]:
    """A client of `stage`, with a channel for songs and one for all other calls."""
    address, access = settings.address(stage), Access.of(settings)
    async with (
        channel_between_services(address, access) as songs,
        channel_between_services(address, access) as aside,
    ):
        yield client(stage, address, songs, aside)


def _metrics_server(metrics: Metrics, settings: Settings) -> AbstractAsyncContextManager[None]:
    if settings.metrics_port is None:
        return nullcontext()
    return metrics_server(metrics.registry, settings.host, settings.metrics_port)


def main() -> None:
    settings, parent_pid = flags.parse(
        "orchestrator", "Queues jobs, leads them through the stages, and keeps the ledger of leases."
    )
    if parent_pid is not None:
        die_with_parent(parent_pid, signal.SIGTERM)
    logs.configure("orchestrator", settings.log_level)
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
