"""One job's way through the stages: conditioning, latents, audio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from acestage.errors import InternalError
from acestage.limits import Clamped
from acestage.protos.dit.v1 import dit_pb2
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.protos.vae.v1 import vae_pb2
from acestage.settings import Settings
from acestage.tensors import WireTensor
from services.orchestrator import requests
from services.orchestrator.audio_meter import AudioMeter
from services.orchestrator.current_limits import CurrentLimits
from services.orchestrator.models import find_model
from services.orchestrator.requests import DenoisedOn, GenerationSettings
from services.orchestrator.stage_clients import Deadline, DitClient, StageClient, TextEncoderClient, VaeClient

Emit = Callable[[pb.GenerateResponse], None]
OnStageEvent = Callable[[str, stage_pb2.StageStarted | stage_pb2.StageReport], None]
StageResponse = text_encoder_pb2.EncodeResponse | dit_pb2.DenoiseResponse | vae_pb2.DecodeResponse

CONDITIONING = ("encoder_hidden_states", "null_condition", "context_latents")


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job says: its settings, its tracks without their samples, what was lowered."""

    settings: pb.Settings
    tracks: tuple[pb.Track, ...]
    clamped: tuple[Clamped, ...]


class Pipeline:
    """Runs jobs over the three stages, within the limits that they and `settings` set."""

    def __init__(
        self,
        text_encoder: TextEncoderClient,
        dit: DitClient,
        vae: VaeClient,
        settings: Settings,
        *,
        on_stage_event: OnStageEvent = lambda stage, event: None,
    ) -> None:
        """Runs jobs over these stages; `on_stage_event` hears of every start and every report of a stage."""
        self.stages: tuple[StageClient, ...] = (text_encoder, dit, vae)
        self.limits = CurrentLimits(self.stages, settings)
        self._text_encoder = text_encoder
        self._dit = dit
        self._vae = vae
        self._on_stage_event = on_stage_event

    async def run(self, request: pb.GenerateRequest, emit: Emit, deadline: Deadline) -> Result:
        """Generates what a checked `request` asks for; audio and progress go to `emit` as they come.

        Raises:
            AcestageError: a stage failed, the stages do not all serve the model, or the limits have
                changed since the check.
        """
        infos = await asyncio.gather(*(stage.info() for stage in self.stages))
        model = find_model(infos, request.model)
        limits = self.limits.after(infos, requests.item_count(request), model.name)
        request, clamped = requests.lower(request, limits)
        requests.check(request, limits)
        settings = requests.resolve(request, model, limits)
        conditioning = await self._encode(settings, model, emit, deadline)
        latents, denoised = await self._denoise(settings, model, conditioning, emit, deadline)
        tracks = await self._decode(settings, model, latents, emit, deadline)
        return Result(settings.to_pb(model, denoised), tracks, clamped)

    async def _encode(
        self, settings: GenerationSettings, model: stage_pb2.Model, emit: Emit, deadline: Deadline
    ) -> list[WireTensor]:
        parameters = text_encoder_pb2.EncodeParameters(
            caption=settings.caption,
            lyrics=settings.lyrics,
            language=settings.language,
            frame_count=settings.frame_count(model),
            duration_s=settings.duration_s,
            bpm=settings.bpm,
            key_scale=settings.key_scale,
            time_signature=settings.time_signature,
            instruction=settings.instruction,
            quantization=settings.quantization,
            model=model.name,
        )
        stage = self._text_encoder.stage
        found = await self._text_encoder.encode(
            parameters, (), lambda response: self._relay(stage, response, emit), deadline
        )
        missing = [name for name in CONDITIONING if name not in found]
        if missing:
            raise InternalError(f"{stage} returned no {', '.join(missing)}", metadata={"stage": stage})
        return [found[name] for name in CONDITIONING]

    async def _denoise(
        self,
        settings: GenerationSettings,
        model: stage_pb2.Model,
        conditioning: list[WireTensor],
        emit: Emit,
        deadline: Deadline,
    ) -> tuple[WireTensor, DenoisedOn]:
        parameters = dit_pb2.DenoiseParameters(
            seeds=settings.seeds,
            step_count=settings.step_count,
            shift=settings.shift,
            guidance_scale=settings.guidance_scale,
            cfg_interval_start=settings.cfg_interval[0],
            cfg_interval_end=settings.cfg_interval[1],
            timesteps=settings.timesteps,
            quantization=settings.quantization,
            model=model.name,
        )
        denoised = DenoisedOn("", "", "")

        def on_event(response: dit_pb2.DenoiseResponse) -> None:
            nonlocal denoised
            if response.HasField("started"):
                started = response.started
                denoised = DenoisedOn(started.device, started.dtype, started.quantization)
            if response.WhichOneof("event") == "step":
                _progress(self._dit.stage, response.step.step, response.step.step_count, emit)
            else:
                self._relay(self._dit.stage, response, emit)

        latents = await self._dit.denoise(parameters, conditioning, on_event, deadline)
        return latents, denoised

    async def _decode(
        self,
        settings: GenerationSettings,
        model: stage_pb2.Model,
        latents: WireTensor,
        emit: Emit,
        deadline: Deadline,
    ) -> tuple[pb.Track, ...]:
        meters = [AudioMeter() for _ in settings.seeds]
        parameters = vae_pb2.DecodeParameters(model=model.name)
        async with aclosing(self._vae.decode(parameters, latents, deadline)) as responses:
            async for response in responses:
                match response.WhichOneof("event"):
                    case "audio":
                        emit(pb.GenerateResponse(audio=response.audio))
                        await asyncio.to_thread(meters[response.audio.item_index].add, response.audio)
                    case "tile":
                        _progress(self._vae.stage, response.tile.tile, response.tile.tile_count, emit)
                    case _:
                        self._relay(self._vae.stage, response, emit)
        return tuple(
            meter.track(index, seed)
            for index, (meter, seed) in enumerate(zip(meters, settings.seeds, strict=True))
        )

    def _relay(self, stage: str, response: StageResponse, emit: Emit) -> None:
        """Passes on what every stage reports: the wait for the device, the start, the end."""
        match response.WhichOneof("event"):
            case "queued":
                waiting = pb.StageWaiting(stage=stage, position=response.queued.position)
                emit(pb.GenerateResponse(stage_waiting=waiting))
            case "started":
                self._on_stage_event(stage, response.started)
                started = pb.StageStarted(stage=stage, started=response.started)
                emit(pb.GenerateResponse(stage_started=started))
            case "report":
                self._on_stage_event(stage, response.report)
                completed = pb.StageCompleted(stage=stage, report=response.report)
                emit(pb.GenerateResponse(stage_completed=completed))


def _progress(stage: str, done_count: int, total_count: int, emit: Emit) -> None:
    progress = pb.StageProgress(stage=stage, done_count=done_count, total_count=total_count)
    emit(pb.GenerateResponse(progress=progress))
