"""Starts one stage: its worker host, its lease client, its gRPC services."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from acestage.access import Access
from acestage.checkpoints import ModelFacts, open_checkpoints
from acestage.errors import AcestageError
from acestage.generation import ProcessMemory
from acestage.planning import MIB
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.settings import Settings
from services.runtime.devices.cuda_devices import driver_awake
from services.runtime.devices.device_memory import DeviceMemory
from services.runtime.devices.devices import resolve_device
from services.runtime.jobs.job_budget import JobBudget
from services.runtime.jobs.lease_client import LeaseClient
from services.runtime.jobs.stage_device import StageDevice
from services.runtime.jobs.stage_runner import StageRunner, WorkerState
from services.runtime.preload.facts import MappedModel, PreloadFacts
from services.runtime.processes import flags, logs
from services.runtime.processes.finishing import end
from services.runtime.processes.parent_death import die_with_parent
from services.runtime.rpc.channels import channel_between_services
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.rpc.server import Server, run_service, until_stopped
from services.runtime.stage_config import StageConfig
from services.runtime.workers.worker_host import WorkerHost

log = logging.getLogger(__name__)


_STATE_TO_PB = {
    WorkerState.ASLEEP: stage_pb2.WORKER_STATE_ASLEEP,
    WorkerState.BUSY: stage_pb2.WORKER_STATE_BUSY,
    WorkerState.WARM: stage_pb2.WORKER_STATE_WARM,
}


@dataclass(frozen=True, slots=True)
class StageDefinition:
    """What makes a stage.

    Attributes:
        name: "text_encoder", "dit" or "vae".
        service_name: full name of its gRPC service.
        add_servicer: registers its servicer, given the runner, the models and the settings, on a server.
        budget: what its jobs need.
    """

    name: str
    service_name: str
    add_servicer: Callable[[StageRunner, ModelCatalog, Settings, grpc.aio.Server], None]
    budget: JobBudget


def main(definition: StageDefinition, description: str) -> None:
    """The command line of a stage: `python -m services.<stage>`."""
    settings, parent_pid = flags.parse(definition.name, description)
    if parent_pid is not None:
        die_with_parent(parent_pid, signal.SIGTERM)
    logs.configure(definition.name, settings.log_level)
    run_service(lambda: serve(definition, settings))


async def serve(definition: StageDefinition, settings: Settings) -> None:
    """Serves the stage until SIGTERM or SIGINT.

    Raises:
        FailedPreconditionError: a checkpoint is not usable, two models have the same name, the device does
            not exist, the address would be open to all, or the port is taken.
    """
    checkpoints = open_checkpoints(
        settings.checkpoints, checkpoints_dir=Path(settings.checkpoints_dir), variant=settings.variant
    )
    models = ModelCatalog([checkpoint.model for checkpoint in checkpoints])
    device = resolve_device(settings.device)
    with driver_awake(device):
        await _serve(definition, settings, models, device)


async def _serve(definition: StageDefinition, settings: Settings, models: ModelCatalog, device: str) -> None:
    config = StageConfig.from_settings(definition.name, settings, device)
    stage_device = StageDevice.of(config)
    port = settings.ports()[definition.name] if settings.port is None else settings.port
    fields = {"device": device, "stage": definition.name}
    names = (definition.service_name, stage_pb2.DESCRIPTOR.services_by_name["StageService"].full_name)
    server = Server(definition.name, names, settings, port)

    async def on_readiness(facts: PreloadFacts | None) -> None:
        await server.set_serving(facts is not None)
        for name, model in facts.models.items() if facts else ():
            size = model.memory.weights_bytes["none"] / MIB
            log.info("ready: %s, %s, %.0f MiB of weights", name, model.dtype, size, extra=fields)

    async with (
        await WorkerHost.start(config, on_readiness) as host,
        channel_between_services(settings.address("orchestrator"), Access.of(settings)) as channel,
    ):
        holder = f"{definition.name}@{socket.gethostname()}:{os.getpid()}"
        leases = LeaseClient(channel, settings.address("orchestrator"), holder)
        runner = StageRunner(
            definition.name,
            host,
            leases,
            definition.budget,
            stage_device,
            progress_timeout_s=settings.progress_timeout_s,
            max_hold_s=settings.max_hold_s,
            stays_warm=not (definition.name == "dit" and settings.offload_dit_to_cpu),
        )
        definition.add_servicer(runner, models, settings, server.grpc)
        stage_pb2_grpc.add_StageServiceServicer_to_server(StageInfo(runner, models), server.grpc)
        await server.start()
        watching = asyncio.create_task(host.run())
        try:
            async with runner:
                serving = asyncio.create_task(runner.serve())
                try:
                    await until_stopped(watching, serving)
                finally:
                    await server.stop()
                    await end(serving)
        finally:
            await end(watching)


class StageInfo(stage_pb2_grpc.StageServiceServicer):
    """Says what the stage runs, from what is known without touching the device."""

    def __init__(self, runner: StageRunner, models: ModelCatalog) -> None:
        self._runner = runner
        self._models = models

    async def GetStageInfo(
        self,
        request: stage_pb2.GetStageInfoRequest,
        context: grpc.aio.ServicerContext[stage_pb2.GetStageInfoRequest, stage_pb2.GetStageInfoResponse],
    ) -> stage_pb2.GetStageInfoResponse:
        runner = self._runner
        facts = await runner.host.ready()
        info = stage_pb2.GetStageInfoResponse(
            stage=runner.stage,
            models=[_stage_model(model, facts.models[model.name]) for model in self._models.models],
            device=runner.device.name,
            placed_model=runner.placed_model,
            quantization=runner.placed_quantization,
            active_job_count=runner.active_job_count,
            worker_state=_STATE_TO_PB[runner.worker_state],
            device_bytes=runner.device.total_bytes,
        )
        if request.with_memory:
            # The kernel takes its time to add up the pages of a process, and a driver may too.
            device_memory, processes = await asyncio.gather(
                asyncio.to_thread(self._device_memory), asyncio.to_thread(self._processes)
            )
            info.processes.extend(memory.to_pb() for memory in processes)
            if device_memory is not None:
                info.device_memory.CopyFrom(device_memory.to_pb())
        return info

    def _device_memory(self) -> DeviceMemory | None:
        try:
            return self._runner.device.read_memory()
        except AcestageError as error:  # the rest of the answer is of use all the more
            log.warning("no device memory: %s", error, extra={"stage": self._runner.stage})
            return None

    def _processes(self) -> list[ProcessMemory]:
        return [*self._runner.host.memory(), *self._runner.host.worker_memory()]


def _stage_model(model: ModelFacts, mapped: MappedModel) -> stage_pb2.StageModel:
    return stage_pb2.StageModel(
        model=model_to_pb(model),
        dtype=mapped.dtype,
        weights_bytes=mapped.memory.weights_bytes["none"],
        memory=mapped.memory.to_pb(),
    )


def model_to_pb(model: ModelFacts) -> stage_pb2.Model:
    return stage_pb2.Model(
        name=model.name,
        is_turbo=model.is_turbo,
        latent_channel_count=model.latent_channel_count,
        latent_frame_rate_hz=model.latent_frame_rate_hz,
        sample_rate_hz=model.sample_rate_hz,
        hop_sample_count=model.hop_sample_count,
        is_untrained=model.is_untrained,
        knows_tracks=model.knows_tracks,
        audio_code_count=model.audio_code_count,
        frames_per_audio_code=model.frames_per_audio_code,
    )
