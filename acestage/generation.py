"""What a client asks for, what it hears meanwhile, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from acestage.audio_file import AudioFormat, BitDepth, write_audio
from acestage.limits import Clamped

STAGES = ("text_encoder", "dit", "vae")
"""The stages, in the order in which a job goes through them."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter by its name in the services' folder, and how much of it, -4 to 4."""

    name: str
    scale: float = 1.0


class GenerationOptions(TypedDict, total=False):
    """Options of a generation; what is left out takes the model's default, which the result reports.

    Attributes:
        lyrics: up to 50,000 characters; empty is an instrumental.
        language: code of the lyrics' language ("en").
        duration_s: 10 to 600 seconds (60, or the limit where that is lower); `Client.limits` says how much
            the services allow.
        bpm: 30 to 300 beats a minute.
        key_scale: a note and a mode, such as "F# minor".
        time_signature: "2", "3", "4" or "6".
        seed: item i of the batch uses seed + i; -1 draws one.
        seeds: one for each take, instead of `seed` and `batch_size`.
        step_count: denoising steps, 1 to 200 (turbo 8, others 32).
        shift: shift of the timestep schedule, 0.1 to 10 (3).
        guidance_scale: 0 to 30 (7); on above 1. Turbo models run without guidance.
        cfg_interval_start: guidance is applied while 1 - t lies between this (0) …
        cfg_interval_end: … and this (1).
        timesteps: instead of step_count and shift: falling values in (0, 1], a last 0 apart.
        instruction: replaces the instruction that opens the prompt.
        batch_size: takes, 1 to 8 (1), or as many as the services allow.
        model: the model's name, or the short one of a published model, such as "base" (the first that is
            served); `Client.status` lists those that are.
        clamp: values above a limit are lowered to it, which the result reports, rather than refused.
        quantization: "none" or "int8" weights; left out, int8 only where the device needs it.
        task: "text2music" (left out), "cover", "cover-nofsq", "repaint", "extract", "lego" or "complete".
        source_id: the audio that the task works on, from `Client.upload`; the song is as long.
        reference_id: audio whose timbre the music is to have, from `Client.upload`.
        audio_codes: instead of a source, such as "<|audio_code_17|><|audio_code_4|>".
        audio_cover_strength: for covers, 0 to 1 (1); below 1, what the caption alone gives is blended in.
        cover_noise_strength: for covers, 0 to 1 (0); above 0 the work starts from the noised source.
        repaint_start_s: the window to generate, in seconds of the source, from this (its start) …
        repaint_end_s: … to this (its end). For "repaint" they may lie outside of the source.
        track_name: for "extract" and "lego", such as "vocals".
        track_classes: for "complete", such as ["drums", "bass"].
        infer_method: "ode" (left out) or "sde".
        adapters: LoRA adapters that change the DiT.
        preview: a short version of few steps comes first.
        detached: the job goes on when its call ends; `Client.attach` hears it, `Client.cancel` stops it.
    """

    lyrics: str
    language: str
    duration_s: float
    bpm: int
    key_scale: str
    time_signature: str
    seed: int
    step_count: int
    shift: float
    guidance_scale: float
    cfg_interval_start: float
    cfg_interval_end: float
    timesteps: Sequence[float]
    instruction: str
    batch_size: int
    quantization: str
    model: str
    clamp: bool
    seeds: Sequence[int]
    task: str
    source_id: str
    reference_id: str
    audio_codes: str
    audio_cover_strength: float
    cover_noise_strength: float
    repaint_start_s: float
    repaint_end_s: float
    track_name: str
    track_classes: Sequence[str]
    infer_method: str
    adapters: Sequence[Adapter]
    preview: bool
    detached: bool


@dataclass(frozen=True, slots=True)
class JobQueued:
    """The job waits; `position` 1 is next, 0 says that it starts."""

    job_id: str
    position: int


@dataclass(frozen=True, slots=True)
class StageWaiting:
    """A stage waits in line for the device; `position` 1 is next."""

    stage: str
    position: int


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage holds the device, with a lease of so many bytes; `was_warm`: its weights were there already.
    It comes again where the stage has to begin anew."""

    stage: str
    device: str
    dtype: str
    lease_id: str
    fencing_token: int
    lease_wait_s: float
    quantization: str
    vram_bytes: int
    was_warm: bool


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Steps or tiles done, of all."""

    stage: str
    done_count: int
    total_count: int


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory of a process in bytes.

    Attributes:
        rss_bytes: resident now; mapped weights count, though the kernel may drop them.
        anonymous_bytes: resident now, and not to be dropped. Pages that processes share after a fork count
            for each by its share, so that the sum over processes is what they take together.
        device_bytes: on a CUDA device now, where the driver tells; else 0.
    """

    name: str
    pid: int
    rss_bytes: int
    peak_rss_bytes: int
    anonymous_bytes: int = 0
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What a stage did differently. `kind`: "smaller_tile", "split_guidance", "int8" or "float32"; the ways
    `before` and `after`, and the `cause`, are for people."""

    kind: str
    before: str
    after: str
    cause: str


@dataclass(frozen=True, slots=True)
class StageCompleted:
    """A stage is done. It had the device from `started_at` to `ended_at`; `load_s` of that went by until
    its worker was ready, `compute_s` in the model. `planned_bytes` of the device were planned for it, and
    `adaptations` is what it did differently for lack of memory or of precision."""

    stage: str
    lease_id: str
    fencing_token: int
    started_at: datetime
    ended_at: datetime
    load_s: float
    compute_s: float
    processes: tuple[ProcessMemory, ...]
    peak_device_bytes: int
    planned_bytes: int
    adaptations: tuple[Adaptation, ...]


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Samples [n, channels] of one item, float32, before normalisation."""

    item_index: int
    start_sample: int
    samples: npt.NDArray[np.float32]
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class PreviewAudio:
    """As `AudioChunk`, but of the preview: never part of the song."""

    item_index: int
    start_sample: int
    samples: npt.NDArray[np.float32]
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class Track:
    """One finished item of the batch.

    Attributes:
        audio: [samples, channels], float32, normalised: `gain` is applied.
        peak: largest sample before the gain.
        rms: root mean square before the gain.
        samples_sha256: of the interleaved little-endian float32 samples before the gain, in hex.
        warnings: for example that the audio is silent.
    """

    item_index: int
    seed: int
    audio: npt.NDArray[np.float32]
    sample_rate_hz: int
    gain: float
    peak: float
    rms: float
    samples_sha256: str
    warnings: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        return len(self.audio) / self.sample_rate_hz

    def save(
        self, path: str | Path, *, audio_format: AudioFormat = "wav", bit_depth: BitDepth = "16"
    ) -> Path:
        """Writes the audio and returns the path."""
        target = Path(path)
        write_audio(target, self.audio, self.sample_rate_hz, audio_format=audio_format, bit_depth=bit_depth)
        return target


@dataclass(frozen=True, slots=True)
class Model:
    """What made the music. `is_untrained`: random weights, so the sound only proves the path."""

    name: str
    is_turbo: bool
    is_untrained: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting that a job used, defaults included; the same settings give the same audio."""

    caption: str
    lyrics: str
    language: str
    duration_s: float
    bpm: int | None
    key_scale: str
    time_signature: str
    seed: int
    step_count: int
    shift: float
    guidance_scale: float
    cfg_interval_start: float
    cfg_interval_end: float
    timesteps: tuple[float, ...]
    instruction: str
    batch_size: int
    model: Model
    device: str
    dtype: str
    quantization: str
    task: str
    seeds: tuple[int, ...]
    source_id: str
    reference_id: str
    audio_codes: str
    audio_cover_strength: float
    cover_noise_strength: float
    repaint_start_s: float | None
    repaint_end_s: float | None
    track_name: str
    track_classes: tuple[str, ...]
    infer_method: str
    adapters: tuple[Adapter, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PreviewCompleted:
    """All of the preview is there: its tracks, from so many steps."""

    tracks: tuple[Track, ...]
    step_count: int


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Latent frames that were decoded for their audio, over all items, and besides, as halos of the tiles."""

    tile_count: int
    frame_count: int
    halo_frame_count: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished job; `clamped` are the values that were lowered to a limit, as `clamp` allows, and
    `decode_cost` is None where the orchestrator does not tell."""

    job_id: str
    tracks: tuple[Track, ...]
    settings: Settings
    stages: tuple[StageCompleted, ...]
    total_s: float
    run_s: float
    processes: tuple[ProcessMemory, ...]
    clamped: tuple[Clamped, ...] = ()
    decode_cost: DecodeCost | None = None


GenerationEvent = (
    JobQueued
    | StageWaiting
    | StageStarted
    | StageProgress
    | StageCompleted
    | AudioChunk
    | PreviewAudio
    | PreviewCompleted
    | Generation
)
