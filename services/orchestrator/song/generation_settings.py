"""What a job does, with every default filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from acestage.generation_options import Adapter
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.song import audio_codes
from services.orchestrator.song.tasks import COVER, REPAINT, instruction
from services.orchestrator.song.timeline import Span, Timeline


@dataclass(frozen=True, slots=True)
class DenoisedOn:
    """Where and how the DiT worked in the end."""

    device: str
    dtype: str
    quantization: str
    kernels: str


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Every setting of a job, defaults filled in. Units and ranges as in `GenerateRequest`.

    Attributes:
        duration_s: of the song, with what a window adds to its source.
        timeline: where the source lies; None without one.
        codes: audio codes that stand in for a source, or none.
        own_instruction: what replaces the task's instruction; empty where nothing does.
    """

    task: str
    caption: str
    lyrics: str
    language: str
    duration_s: float
    bpm: int | None
    key_scale: str
    time_signature: str
    seeds: tuple[int, ...]
    step_count: int
    shift: float
    guidance_scale: float
    cfg_interval: tuple[float, float]
    timesteps: tuple[float, ...]
    infer_method: str
    own_instruction: str
    quantization: str
    source_id: str
    timeline: Timeline | None
    reference_id: str
    codes: tuple[int, ...]
    audio_cover_strength: float
    cover_noise_strength: float
    repaint_start_s: float | None
    repaint_end_s: float | None
    track_name: str
    track_classes: tuple[str, ...]
    adapters: tuple[Adapter, ...]

    @property
    def instruction(self) -> str:
        """What opens the prompt."""
        if self.own_instruction:
            return self.own_instruction
        tracks = (self.track_name,) if self.track_name else self.track_classes
        return instruction(self.task, tracks)

    @property
    def goes_through_codes(self) -> bool:
        """Whether the source is followed through its audio codes alone."""
        return self.task == COVER and self.timeline is not None

    @property
    def keeps_source(self) -> bool:
        """Whether the song is the source itself but for a window."""
        return self.task == REPAINT

    @property
    def window_frames(self) -> Span | None:
        """The frames that the model is to generate; None for all of them."""
        if self.repaint_start_s is None and self.repaint_end_s is None:
            return None
        return None if self.timeline is None else self.timeline.window_frames

    def frame_count(self, model: Model) -> int:
        """Latent frames of the song."""
        if self.timeline is not None:
            return self.timeline.frame_count
        if self.codes:
            return len(self.codes) * model.frames_per_audio_code
        # Rounded to samples first: 16.44 s times 25 frames a second is a little more than 411.
        return math.ceil(round(self.duration_s * model.sample_rate_hz) / model.hop_sample_count)

    def to_pb(self, model: Model, denoised: DenoisedOn, vae_kernels: str) -> pb.Settings:
        return pb.Settings(
            task=self.task,
            caption=self.caption,
            lyrics=self.lyrics,
            language=self.language,
            duration_s=self.duration_s,
            bpm=self.bpm,
            key_scale=self.key_scale,
            time_signature=self.time_signature,
            seed=self.seeds[0],
            seeds=self.seeds,
            batch_size=len(self.seeds),
            step_count=self.step_count,
            shift=self.shift,
            guidance_scale=self.guidance_scale,
            cfg_interval_start=self.cfg_interval[0],
            cfg_interval_end=self.cfg_interval[1],
            timesteps=self.timesteps,
            infer_method=self.infer_method,
            instruction=self.own_instruction,
            source_id=self.source_id,
            reference_id=self.reference_id,
            audio_codes=audio_codes.join(self.codes),
            audio_cover_strength=self.audio_cover_strength,
            cover_noise_strength=self.cover_noise_strength,
            repaint_start_s=self.repaint_start_s,
            repaint_end_s=self.repaint_end_s,
            track_name=self.track_name,
            track_classes=self.track_classes,
            adapters=[adapter.to_pb() for adapter in self.adapters],
            model=model,
            device=denoised.device,
            dtype=denoised.dtype,
            quantization=denoised.quantization,
            kernels=denoised.kernels if denoised.kernels == vae_kernels else "mixed",
        )
