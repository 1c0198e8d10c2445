"""The work of the stages for one job: requests from its settings, progress to its listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from acestage.protos.dit.v1 import dit_pb2
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.protos.vae.v1 import vae_pb2
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from acestage.tensors import WireTensor
from services.orchestrator.song.conditioning import Conditioned, Conditioning
from services.orchestrator.song.generation_settings import DenoisedOn, GenerationSettings
from services.orchestrator.song.source_latents import Audio, EncodedAudio, Samples, SourceLatents
from services.orchestrator.song.timeline import Timeline
from services.orchestrator.song.track_writer import TrackWriter
from services.orchestrator.stage_clients import Deadline, DitClient, TextEncoderClient, VaeClient

Emit = Callable[[pb.GenerateResponse], None]
OnStageEvent = Callable[[str, stage_pb2.StageStarted | stage_pb2.StageReport], None]
StageResponse = (
    text_encoder_pb2.EncodeResponse
    | text_encoder_pb2.TokenizeResponse
    | dit_pb2.DenoiseResponse
    | vae_pb2.EncodeResponse
    | vae_pb2.DecodeResponse
)


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a pipeline, and what it keeps for them."""

    text_encoder: TextEncoderClient
    dit: DitClient
    vae: VaeClient
    sources: SourceLatents
    conditioning: Conditioning
    on_event: OnStageEvent


class StageWork:
    """Asks the stages for the parts of one job."""

    def __init__(
        self,
        stages: Stages,
        model: stage_pb2.Model,
        dtypes: Mapping[str, str],
        emit: Emit,
        deadline: Deadline,
    ) -> None:
        """Prepares.

        Args:
            stages: the services that do it.
            model: the one to be used.
            dtypes: what each stage computes in for it, by stage.
            emit: takes the events of the job.
            deadline: when the caller gives up.
        """
        self.model = model
        self._stages = stages
        self._dtypes = dtypes
        self._emit = emit
        self._deadline = deadline
        self._encode_kernels: set[str] = set()

    async def source_latents(self, audio_id: str, samples: Samples, timeline: Timeline) -> WireTensor:
        """ "source_latents" [1, frames, channels] of an uploaded audio in its place."""
        audio = self._audio(audio_id, samples)
        return self._noted(
            await self._stages.sources.of_source(audio, timeline, self._relay_vae, self._deadline)
        )

    async def reference_latents(self, audio_id: str, samples: Samples) -> WireTensor:
        """ "reference_latents" [1, frames, channels] of an uploaded audio."""
        audio = self._audio(audio_id, samples)
        return self._noted(await self._stages.sources.of_reference(audio, self._relay_vae, self._deadline))

    async def tokenize(self, source: WireTensor) -> tuple[int, ...]:
        """The audio codes of "source_latents"."""
        stage = self._stages.text_encoder
        return await stage.tokenize(
            text_encoder_pb2.TokenizeParameters(model=self.model.name),
            source,
            lambda response: self._relay(stage.stage, response),
            self._deadline,
        )

    async def encode(self, settings: GenerationSettings, latents: Sequence[WireTensor]) -> Conditioned:
        """The conditioning for the DiT; `latents` are those of source and reference, where there are any."""
        window = settings.window_frames
        parameters = text_encoder_pb2.EncodeParameters(
            caption=settings.caption,
            lyrics=settings.lyrics,
            language=settings.language,
            frame_count=settings.frame_count(self.model),
            duration_s=settings.duration_s,
            bpm=settings.bpm,
            key_scale=settings.key_scale,
            time_signature=settings.time_signature,
            instruction=settings.instruction,
            quantization=settings.quantization,
            model=self.model.name,
            through_codes=settings.goes_through_codes,
            audio_codes=settings.codes,
            window_start_frame=window.start if window else 0,
            window_stop_frame=window.stop if window else 0,
            silence_window=settings.keeps_source,
            with_plain=settings.audio_cover_strength < 1,
        )
        stage = self._stages.text_encoder.stage
        return await self._stages.conditioning.of(
            parameters,
            latents,
            self.model,
            self._dtypes[stage],
            lambda response: self._relay(stage, response),
            self._deadline,
        )

    async def denoise(
        self,
        settings: GenerationSettings,
        inputs: Iterable[WireTensor],
        frame_count: int,
        *,
        is_preview: bool = False,
    ) -> tuple[WireTensor, DenoisedOn]:
        """The latents [takes, `frame_count`, channels], and how they were made."""
        parameters = dit_pb2.DenoiseParameters(
            seeds=settings.seeds,
            step_count=settings.step_count,
            shift=settings.shift,
            guidance_scale=settings.guidance_scale,
            cfg_interval_start=settings.cfg_interval[0],
            cfg_interval_end=settings.cfg_interval[1],
            timesteps=settings.timesteps,
            quantization=settings.quantization,
            model=self.model.name,
            audio_cover_strength=settings.audio_cover_strength,
            cover_noise_strength=settings.cover_noise_strength,
            infer_method=settings.infer_method,
            adapters=[adapter.to_pb() for adapter in settings.adapters],
        )
        stage = self._stages.dit
        denoised = DenoisedOn("", "", "", "")

        def on_event(response: dit_pb2.DenoiseResponse) -> None:
            nonlocal denoised
            if response.HasField("started"):
                started = response.started
                denoised = DenoisedOn(started.device, started.dtype, started.quantization, "")
            if response.HasField("report"):
                denoised = replace(denoised, kernels=response.report.kernels)
            if response.WhichOneof("event") == "step":
                self._progress(stage.stage, response.step.step, response.step.step_count)
            else:
                self._relay(stage.stage, response)

        shape = (len(settings.seeds), frame_count, self.model.latent_channel_count)
        latents = await stage.denoise(
            parameters, inputs, shape, on_event, self._deadline, is_preview=is_preview
        )
        return latents, denoised

    async def decode(
        self,
        latents: WireTensor,
        writer: TrackWriter,
        send: Callable[[AudioChunk], None],
        *,
        is_preview: bool = False,
    ) -> str:
        """Sends the audio of `latents` as `writer` puts it together.

        Returns:
            What the VAE's kernels were, also for the latents of source and reference.
        """
        kernels = ""
        wanted = writer.wanted_frames
        parameters = vae_pb2.DecodeParameters(
            model=self.model.name,
            start_frame=wanted.start if wanted else 0,
            stop_frame=wanted.stop if wanted else 0,
        )
        decoding = self._stages.vae.decode(parameters, latents, self._deadline, is_preview=is_preview)
        async with aclosing(decoding) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "audio":
                    for chunk in await asyncio.to_thread(writer.add, response.audio):
                        send(chunk)
                    continue
                if response.WhichOneof("event") == "tile":
                    writer.count(response.tile)
                if response.HasField("report"):
                    kernels = response.report.kernels
                self._relay_vae(response)
        return kernels if self._encode_kernels <= {kernels} else "mixed"

    def _noted(self, encoded: EncodedAudio) -> WireTensor:
        self._encode_kernels.add(encoded.kernels)
        return encoded.latents

    def _audio(self, audio_id: str, samples: Samples) -> Audio:
        return Audio(audio_id, samples, self.model, self._dtypes[self._stages.vae.stage])

    def _relay_vae(self, response: vae_pb2.EncodeResponse | vae_pb2.DecodeResponse) -> None:
        stage = self._stages.vae.stage
        if response.WhichOneof("event") == "tile":
            self._progress(stage, response.tile.tile, response.tile.tile_count)
        else:
            self._relay(stage, response)

    def _relay(self, stage: str, response: StageResponse) -> None:
        """Passes on what every stage reports: the wait for the device, the start, the end."""
        match response.WhichOneof("event"):
            case "queued":
                waiting = pb.StageWaiting(stage=stage, position=response.queued.position)
                self._emit(pb.GenerateResponse(stage_waiting=waiting))
            case "started":
                self._stages.on_event(stage, response.started)
                started = pb.StageStarted(stage=stage, started=response.started)
                self._emit(pb.GenerateResponse(stage_started=started))
            case "report":
                self._stages.on_event(stage, response.report)
                completed = pb.StageCompleted(stage=stage, report=response.report)
                self._emit(pb.GenerateResponse(stage_completed=completed))

    def _progress(self, stage: str, done_count: int, total_count: int) -> None:
        progress = pb.StageProgress(stage=stage, done_count=done_count, total_count=total_count)
        self._emit(pb.GenerateResponse(progress=progress))
