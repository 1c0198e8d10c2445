"""`python -m services.orchestrator`."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal

from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.protos.lease.v1 import lease_pb2_grpc
from acestage.settings import Settings
from services.orchestrator.epoch import next_epoch
from services.orchestrator.job_queue import JobQueue
from services.orchestrator.lease_service import LeaseService
from services.orchestrator.lessor import Lessor
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.service import GenerationService
from services.orchestrator.stage_clients import DitClient, TextEncoderClient, VaeClient
from services.runtime import device_lock, flags, logs
from services.runtime.channels import open_channel
from services.runtime.finishing import end
from services.runtime.parent_death import die_with_parent
from services.runtime.server import Server, run_service, until_stopped

log = logging.getLogger(__name__)

CONFIRM_S = 3.0
"""A holder renews its lease as soon as it has it; one that does not is gone."""


async def serve(settings: Settings) -> None:
    """Serves the orchestrator until SIGTERM or SIGINT."""
    lessor = Lessor(epoch=next_epoch(settings.run_dir), ttl_s=settings.lease_ttl_s, confirm_s=CONFIRM_S)
    leases = LeaseService(lessor, functools.partial(device_lock.is_free, settings.run_dir))
    names = ("acestage.generation.v1.GenerationService", "acestage.lease.v1.LeaseService")
    port = settings.orchestrator_port if settings.port is None else settings.port
    async with (
        open_channel(settings.address("text_encoder")) as text_encoder,
        open_channel(settings.address("dit")) as dit,
        open_channel(settings.address("vae")) as vae,
    ):
        pipeline = Pipeline(
            TextEncoderClient("text_encoder", settings.address("text_encoder"), text_encoder),
            DitClient("dit", settings.address("dit"), dit),
            VaeClient("vae", settings.address("vae"), vae),
            settings,
        )
        queue = JobQueue(max_count=settings.queue_max_count, slot_count=settings.concurrent_job_count)
        server = Server("orchestrator", names, host=settings.host, port=port)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationService(pipeline, queue, leases), server.grpc
        )
        lease_pb2_grpc.add_LeaseServiceServicer_to_server(leases, server.grpc)
        await server.start()
        await server.set_serving(True)
        ledger = asyncio.create_task(leases.run())
        try:
            await until_stopped(ledger)
        finally:
            await server.stop()
            await end(ledger)


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
