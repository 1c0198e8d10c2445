"""One job's way through the stages: source latents, conditioning, latents, audio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from acestage.errors import DeadlineExceededError, InvalidArgumentError, ServiceUnreachableError
from acestage.limits import Clamped
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from acestage.settings import Settings
from acestage.tensors import WireTensor
from services.orchestrator.jobs.job_size import JobSize
from services.orchestrator.limits.current_limits import ASK_TIMEOUT_S, CurrentLimits
from services.orchestrator.models import find_model
from services.orchestrator.song import requests
from services.orchestrator.song.conditioning import Conditioned, Conditioning
from services.orchestrator.song.generation_settings import GenerationSettings
from services.orchestrator.song.preview import Preview
from services.orchestrator.song.source_latents import HeldAudio, SourceLatents
from services.orchestrator.song.timeline import whole_song
from services.orchestrator.song.track_writer import TrackWriter
from services.orchestrator.stage_clients import (
    INFO_TIMEOUT_S,
    RESTART_TIMEOUT_S,
    Deadline,
    DitClient,
    StageClient,
    TextEncoderClient,
    VaeClient,
)
from services.orchestrator.stage_work import Emit, OnStageEvent, Stages, StageWork
from services.orchestrator.uploads.audio_store import AudioStore


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job says: its settings, its tracks without their samples, what was lowered."""

    settings: pb.Settings
    tracks: tuple[pb.Track, ...]
    clamped: tuple[Clamped, ...]
    decode_cost: pb.DecodeCost


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
            text_encoder: the first stage.
            dit: the second.
            vae: the last; with a source the first as well.
            store: has the audio that requests name.
            settings: set limits.
            on_stage_event: hears of every start and every report of a stage.
        """
        self.stages: tuple[StageClient, ...] = (text_encoder, dit, vae)
        self.limits = CurrentLimits(self.stages, settings)
        self._store = store
        self._stages = Stages(
            text_encoder, dit, vae, SourceLatents(vae), Conditioning(text_encoder), on_stage_event
        )

    @contextmanager
    def hold(self, source_id: str, reference_id: str = "") -> Iterator[HeldAudio]:
        """Uploaded audio by id, for as long as a job may need it; "" is none.

        Raises:
            NotFoundError: it is not there.
        """
        with ExitStack() as uses:
            source, reference = (
                uses.enter_context(self._store.use(audio_id)) if audio_id else None
                for audio_id in (source_id, reference_id)
            )
            yield HeldAudio(source, reference)

    async def check(self, request: pb.GenerateRequest) -> JobSize:
        """Checks a request as far as is possible before its turn comes.

        Returns:
            What it will make.

        Raises:
            InvalidArgumentError: with every wrong field; or where all are right, with the adapters that
                cannot be read.
            NotFoundError: its source or reference is not there.
            VramBudgetExceededError: no song at all fits on the device.
        """
        limits = await self.limits.ask(requests.item_count(request), request.model)
        model = self.limits.model(request.model)
        lowered, _ = requests.lower(request, limits)
        sample_count = self._store.facts(request.source_id).sample_count if request.source_id else None
        if request.reference_id:
            self._store.facts(request.reference_id)
        requests.check(lowered, limits, model=model, source_sample_count=sample_count)
        if lowered.adapters:
            await self._check_adapters(lowered)
        takes = requests.item_count(lowered)
        if model is None:  # no stage has answered yet; it alone could say how long codes are
            return JobSize(0.0 if lowered.source_id or lowered.audio_codes else lowered.duration_s, takes)
        settings = requests.resolve(lowered, model, limits, source_sample_count=sample_count)
        return JobSize(settings.duration_s, takes)

    async def run(
        self, request: pb.GenerateRequest, audio: HeldAudio, emit: Emit, deadline: Deadline
    ) -> Result:
        """Generates what a checked `request` asks for; audio and progress go to `emit` as they come.

        Args:
            request: what is wanted.
            audio: its source and reference, held.
            emit: takes the events.
            deadline: of the caller.

        Raises:
            AcestageError: a stage failed, the stages do not all serve the model, or what the check found has
                changed since.
        """
        infos = await self._infos_within(deadline)
        model = find_model(infos, request.model)
        work = self._work(infos, model, emit, deadline)
        limits = self.limits.known(requests.item_count(request), model.name)
        request, clamped = requests.lower(request, limits)
        requests.check(request, limits, model=model, source_sample_count=audio.source_sample_count)
        settings = requests.resolve(request, model, limits, source_sample_count=audio.source_sample_count)
        conditioned = await self._inputs(settings, audio, work)
        if request.preview:
            await self._preview(settings, conditioned.tensors, work, emit)
        frame_count = settings.frame_count(model)
        latents, denoised = await work.denoise(settings, conditioned.tensors, frame_count)
        writer = TrackWriter(settings, audio.source, model, frame_count)
        kernels = await work.decode(latents, writer, lambda chunk: emit(pb.GenerateResponse(audio=chunk)))
        made = settings.to_pb(model, denoised, kernels)
        return Result(made, writer.tracks(conditioned.warnings), clamped, writer.cost())

    async def check_codes(self, request: pb.GetAudioCodesRequest) -> None:
        """Checks a request for audio codes, but for its source, before its turn comes.

        Raises:
            InvalidArgumentError: there is no such model, or it has no audio tokenizer.
        """
        _codes_model(await self._infos(), request)

    async def audio_codes(
        self, request: pb.GetAudioCodesRequest, audio: HeldAudio, deadline: Deadline
    ) -> tuple[int, ...]:
        """The audio codes of an uploaded audio.

        Raises:
            AcestageError: as of `check_codes`, or a stage failed.
        """
        infos = await self._infos_within(deadline)
        model = _codes_model(infos, request)
        work = self._work(infos, model, lambda event: None, deadline)
        assert audio.source is not None
        timeline = whole_song(len(audio.source), model)
        return await work.tokenize(await work.source_latents(request.source_id, audio.source, timeline))

    async def _check_adapters(self, request: pb.GenerateRequest) -> None:
        """Refuses adapters that are not there; a DiT that is away says so when the job's turn has come."""
        with suppress(ServiceUnreachableError, DeadlineExceededError):
            await self._stages.dit.check_adapters(request.adapters, ASK_TIMEOUT_S)

    async def _infos(self, timeout_s: float = INFO_TIMEOUT_S) -> list[stage_pb2.GetStageInfoResponse]:
        """What the stages are; the first that fails ends the wait for the others."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(stage.info(timeout_s)) for stage in self.stages]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        infos = [task.result() for task in asked]
        self.limits.note(infos)
        return infos

    async def _infos_within(self, deadline: Deadline) -> list[stage_pb2.GetStageInfoResponse]:
        """What the stages are, also where they are started again just now.

        Raises:
            DeadlineExceededError: the caller gave up before.
            AcestageError: a stage does not answer, or refuses.
        """
        try:
            return await self._infos(deadline.within_s(RESTART_TIMEOUT_S))
        except ServiceUnreachableError as error:
            if deadline.remaining_s() == 0.0:
                raise DeadlineExceededError(f"the time of the job was over: {error.message}") from error
            raise

    def _work(
        self,
        infos: Iterable[stage_pb2.GetStageInfoResponse],
        model: stage_pb2.Model,
        emit: Emit,
        deadline: Deadline,
    ) -> StageWork:
        dtypes = {
            info.stage: next(hosted.dtype for hosted in info.models if hosted.model.name == model.name)
            for info in infos
        }
        return StageWork(self._stages, model, dtypes, emit, deadline)

    async def _inputs(self, settings: GenerationSettings, audio: HeldAudio, work: StageWork) -> Conditioned:
        """All that the DiT needs but the noise."""
        source = reference = None
        if settings.timeline is not None and audio.source is not None:
            source = await work.source_latents(settings.source_id, audio.source, settings.timeline)
        if audio.reference is not None:
            reference = await work.reference_latents(settings.reference_id, audio.reference)
        latents = [tensor for tensor in (source, reference) if tensor is not None]
        conditioned = await work.encode(settings, latents)
        if source is not None and settings.cover_noise_strength > 0:
            return replace(conditioned, tensors=(*conditioned.tensors, source))
        return conditioned

    async def _preview(
        self, settings: GenerationSettings, inputs: Iterable[WireTensor], work: StageWork, emit: Emit
    ) -> None:
        """Makes and sends the preview."""

        def send(chunk: AudioChunk) -> None:
            emit(pb.GenerateResponse(preview_audio=chunk))

        preview = Preview(settings, work.model)
        frame_count = len(preview.frames)
        cut = [preview.cut(tensor) for tensor in inputs]
        latents, _ = await work.denoise(preview.settings, cut, frame_count, is_preview=True)
        writer = TrackWriter(preview.settings, None, work.model, frame_count)
        await work.decode(latents, writer, send, is_preview=True)
        completed = pb.PreviewCompleted(tracks=writer.tracks(), step_count=preview.settings.step_count)
        emit(pb.GenerateResponse(preview_completed=completed))


def _codes_model(
    infos: Sequence[stage_pb2.GetStageInfoResponse], request: pb.GetAudioCodesRequest
) -> stage_pb2.Model:
    model = find_model(infos, request.model)
    if not model.audio_code_count:
        raise InvalidArgumentError.at("model", f"is {model.name}, which has no audio tokenizer")
    return model
