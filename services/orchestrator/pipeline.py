"""One job's way through the stages: source latents, conditioning, latents, audio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from acestage.errors import FailedPreconditionError, InternalError
from acestage.limits import Clamped
from acestage.protos.dit.v1 import dit_pb2
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.protos.vae.v1 import vae_pb2
from acestage.settings import Settings
from acestage.tensors import WireTensor
from services.orchestrator import requests
from services.orchestrator.audio_store import AudioStore
from services.orchestrator.current_limits import CurrentLimits
from services.orchestrator.generation_settings import DenoisedOn, GenerationSettings
from services.orchestrator.preview import Preview
from services.orchestrator.source_latents import SourceLatents
from services.orchestrator.stage_clients import Deadline, DitClient, StageClient, TextEncoderClient, VaeClient
from services.orchestrator.timeline import whole_song
from services.orchestrator.track_writer import TrackWriter

Emit = Callable[[pb.GenerateResponse], None]
OnStageEvent = Callable[[str, stage_pb2.StageStarted | stage_pb2.StageReport], None]
StageResponse = (
    text_encoder_pb2.EncodeResponse
    | text_encoder_pb2.TokenizeResponse
    | dit_pb2.DenoiseResponse
    | vae_pb2.EncodeResponse
    | vae_pb2.DecodeResponse
)

CONDITIONING = ("encoder_hidden_states", "null_condition", "context_latents")
PLAIN = "plain_hidden_states"


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job says: its settings, its tracks without their samples, what was lowered."""

    settings: pb.Settings
    tracks: tuple[pb.Track, ...]
    clamped: tuple[Clamped, ...]
    decode_cost: pb.DecodeCost


@dataclass(frozen=True, slots=True)
class _Call:
    """What the calls to the stages for one job have in common."""

    model: stage_pb2.Model
    vae_dtype: str
    emit: Emit
    deadline: Deadline


class Pipeline:
    """Runs jobs over the three stages, within the limits that they and `settings` set."""

    def __init__(
        self,
        text_encoder: TextEncoderClient,
        dit: DitClient,
        vae: VaeClient,
        store: AudioStore,
        settings: Settings,
        *,
        on_stage_event: OnStageEvent = lambda stage, event: None,
    ) -> None:
        """Runs jobs over these stages.

        Args:
            text_encoder: one stage.
            dit: another.
            vae: the last.
            store: has the audio that requests name.
            settings: set limits.
            on_stage_event: hears of every start and every report of a stage.
        """
        self.stages: tuple[StageClient, ...] = (text_encoder, dit, vae)
        self.limits = CurrentLimits(self.stages, settings)
        self._text_encoder = text_encoder
        self._dit = dit
        self._vae = vae
        self._store = store
        self._sources = SourceLatents(store, vae)
        self._on_stage_event = on_stage_event

    async def check(self, request: pb.GenerateRequest) -> None:
        """Checks a request as far as is possible before its turn comes.

        Raises:
            InvalidArgumentError: with every wrong field.
            NotFoundError: its source or reference is not there.
            VramBudgetExceededError: no song at all fits on the device.
        """
        limits = await self.limits.ask(requests.item_count(request))
        lowered, _ = requests.lower(request, limits)
        requests.check(
            lowered, limits, model=self.limits.model, source_sample_count=self._source_sample_count(request)
        )

    async def run(self, request: pb.GenerateRequest, emit: Emit, deadline: Deadline) -> Result:
        """Generates what a checked `request` asks for; audio and progress go to `emit` as they come.

        Raises:
            AcestageError: a stage failed, the stages do not serve the same model, or what the check found
                has changed since.
        """
        infos = await self._model()
        call = self._call(infos, emit, deadline)
        limits = self.limits.after(infos, requests.item_count(request))
        request, clamped = requests.lower(request, limits)
        source_sample_count = self._source_sample_count(request)
        requests.check(request, limits, model=call.model, source_sample_count=source_sample_count)
        settings = requests.resolve(request, call.model, limits, source_sample_count=source_sample_count)
        with ExitStack() as uses:  # so that nothing that the job needs is dropped meanwhile
            samples, _ = (
                uses.enter_context(self._store.use(audio_id)) if audio_id else None
                for audio_id in (settings.source_id, settings.reference_id)
            )
            source, reference = await self._source_latents(settings, call)
            conditioning = await self._encode(settings, source, reference, call)
            inputs = [*conditioning, source] if source and settings.cover_noise_strength > 0 else conditioning
            if request.preview:
                await self._preview(settings, inputs, call)
            latents, denoised = await self._denoise(settings, inputs, call)
            writer = TrackWriter(settings, samples, call.model.sample_rate_hz)
            await self._decode(latents, writer, call)
        return Result(settings.to_pb(call.model, denoised), writer.tracks(), clamped, writer.cost())

    async def audio_codes(self, request: pb.GetAudioCodesRequest, deadline: Deadline) -> tuple[int, ...]:
        """The audio codes of an uploaded audio.

        Raises:
            AcestageError: the audio is not there, the model has no audio tokenizer, or a stage failed.
        """
        call = self._call(await self._model(), lambda event: None, deadline)
        if not call.model.audio_code_count:
            raise FailedPreconditionError(f"model: {call.model.name} has no audio tokenizer")
        timeline = whole_song(self._store.facts(request.source_id).sample_count, call.model)
        source = await self._sources.of_source(
            request.source_id,
            timeline,
            call.model,
            call.vae_dtype,
            lambda response: self._relay(self._vae.stage, response, call.emit),
            deadline,
        )
        stage = self._text_encoder.stage
        return await self._text_encoder.tokenize(
            text_encoder_pb2.TokenizeParameters(model=call.model.name),
            source,
            lambda response: self._relay(stage, response, call.emit),
            deadline,
        )

    def _source_sample_count(self, request: pb.GenerateRequest) -> int | None:
        """Samples of the source; raises `NotFoundError` where source or reference is not there."""
        if request.reference_id:
            self._store.facts(request.reference_id)
        return self._store.facts(request.source_id).sample_count if request.source_id else None

    async def _model(self) -> list[stage_pb2.GetStageInfoResponse]:
        """What the stages run; all must serve the same checkpoint."""
        infos = await asyncio.gather(*(stage.info() for stage in self.stages))
        models = {info.stage: info.model.name for info in infos}
        if any(info.model != infos[0].model for info in infos):
            raise FailedPreconditionError(
                "the stages serve different models: "
                + ", ".join(f"{stage} serves {name}" for stage, name in models.items()),
                metadata=models,
            )
        return infos

    def _call(self, infos: Iterable[stage_pb2.GetStageInfoResponse], emit: Emit, deadline: Deadline) -> _Call:
        by_stage = {info.stage: info for info in infos}
        dit, vae = by_stage[self._dit.stage], by_stage[self._vae.stage]
        return _Call(dit.model, vae.dtype, emit, deadline)

    async def _source_latents(
        self, settings: GenerationSettings, call: _Call
    ) -> tuple[WireTensor | None, WireTensor | None]:
        """Those of the source and those of the reference, where there are any."""
        shared = (
            *(call.model, call.vae_dtype),
            lambda response: self._on_vae_event(response, call.emit),
            call.deadline,
        )
        source = reference = None
        if settings.timeline is not None:
            source = await self._sources.of_source(settings.source_id, settings.timeline, *shared)
        if settings.reference_id:
            reference = await self._sources.of_reference(settings.reference_id, *shared)
        return source, reference

    async def _encode(
        self,
        settings: GenerationSettings,
        source: WireTensor | None,
        reference: WireTensor | None,
        call: _Call,
    ) -> list[WireTensor]:
        window = settings.window_frames
        parameters = text_encoder_pb2.EncodeParameters(
            caption=settings.caption,
            lyrics=settings.lyrics,
            language=settings.language,
            frame_count=settings.frame_count(call.model),
            duration_s=settings.duration_s,
            bpm=settings.bpm,
            key_scale=settings.key_scale,
            time_signature=settings.time_signature,
            instruction=settings.instruction,
            quantization=settings.quantization,
            model=call.model.name,
            through_codes=settings.goes_through_codes,
            audio_codes=settings.codes,
            window_start_frame=window.start if window else 0,
            window_stop_frame=window.stop if window else 0,
            silence_window=settings.keeps_source,
            with_plain=settings.audio_cover_strength < 1,
        )
        stage = self._text_encoder.stage
        found = await self._text_encoder.encode(
            parameters,
            [latents for latents in (source, reference) if latents is not None],
            lambda response: self._relay(stage, response, call.emit),
            call.deadline,
        )
        wanted = [*CONDITIONING, PLAIN] if parameters.with_plain else CONDITIONING
        missing = [name for name in wanted if name not in found]
        if missing:
            raise InternalError(f"{stage} returned no {', '.join(missing)}", metadata={"stage": stage})
        return [found[name] for name in wanted]

    async def _preview(self, settings: GenerationSettings, inputs: Iterable[WireTensor], call: _Call) -> None:
        """Makes and sends the preview."""
        preview = Preview(settings, call.model)
        latents, _ = await self._denoise(preview.settings, [preview.cut(tensor) for tensor in inputs], call)
        writer = TrackWriter(preview.settings, None, call.model.sample_rate_hz)
        await self._decode(latents, writer, call, is_preview=True)
        completed = pb.PreviewCompleted(tracks=writer.tracks(), step_count=preview.settings.step_count)
        call.emit(pb.GenerateResponse(preview_completed=completed))

    async def _denoise(
        self, settings: GenerationSettings, inputs: Iterable[WireTensor], call: _Call
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
            model=call.model.name,
            audio_cover_strength=settings.audio_cover_strength,
            cover_noise_strength=settings.cover_noise_strength,
            infer_method=settings.infer_method,
            adapters=[adapter.to_pb() for adapter in settings.adapters],
        )
        denoised = DenoisedOn("", "", "")

        def on_event(response: dit_pb2.DenoiseResponse) -> None:
            nonlocal denoised
            if response.HasField("started"):
                started = response.started
                denoised = DenoisedOn(started.device, started.dtype, started.quantization)
            if response.WhichOneof("event") == "step":
                _progress(self._dit.stage, response.step.step, response.step.step_count, call.emit)
            else:
                self._relay(self._dit.stage, response, call.emit)

        latents = await self._dit.denoise(parameters, inputs, on_event, call.deadline)
        return latents, denoised

    async def _decode(
        self, latents: WireTensor, writer: TrackWriter, call: _Call, *, is_preview: bool = False
    ) -> None:
        """Sends the audio of `latents` as `writer` puts it together."""
        window = writer.wanted_frames
        parameters = vae_pb2.DecodeParameters(
            model=call.model.name,
            start_frame=window.start if window else 0,
            stop_frame=window.stop if window else 0,
        )
        async with aclosing(self._vae.decode(latents, parameters, call.deadline)) as responses:
            async for response in responses:
                match response.WhichOneof("event"):
                    case "audio":
                        for chunk in await asyncio.to_thread(writer.add, response.audio):
                            event = (
                                pb.GenerateResponse(preview_audio=chunk)
                                if is_preview
                                else pb.GenerateResponse(audio=chunk)
                            )
                            call.emit(event)
                    case "tile":
                        writer.count(response.tile)
                        self._on_vae_event(response, call.emit)
                    case _:
                        self._relay(self._vae.stage, response, call.emit)

    def _on_vae_event(self, response: vae_pb2.EncodeResponse | vae_pb2.DecodeResponse, emit: Emit) -> None:
        if response.WhichOneof("event") == "tile":
            _progress(self._vae.stage, response.tile.tile, response.tile.tile_count, emit)
        else:
            self._relay(self._vae.stage, response, emit)

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
