"""What a client hears while its music is made, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acestage.audio_file import AudioFormat, BitDepth, format_of, write_audio
from acestage.errors import InvalidArgumentError
from acestage.generation_options import Settings
from acestage.limits import Clamped
from acestage.protos.stage.v1 import stage_pb2

STAGES = ("text_encoder", "dit", "vae")
"""The stages, in the order in which a job goes through them."""


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
        rss_bytes: resident now. Mapped weights count, though the kernel may drop them at any time, and what a
            worker shares with its preload counts in both.
        peak_rss_bytes: the most that was resident.
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

    def to_pb(self) -> stage_pb2.ProcessMemory:
        return stage_pb2.ProcessMemory(
            name=self.name,
            pid=self.pid,
            rss_bytes=self.rss_bytes,
            peak_rss_bytes=self.peak_rss_bytes,
            anonymous_bytes=self.anonymous_bytes,
            device_bytes=self.device_bytes,
        )

    @classmethod
    def from_pb(cls, memory: stage_pb2.ProcessMemory) -> ProcessMemory:
        return cls(
            name=memory.name,
            pid=memory.pid,
            rss_bytes=memory.rss_bytes,
            peak_rss_bytes=memory.peak_rss_bytes,
            anonymous_bytes=memory.anonymous_bytes,
            device_bytes=memory.device_bytes,
        )


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
    `adaptations` is what it did differently for lack of memory or of precision. `kernels`: "compiled",
    "eager", "mixed" where both had a part in it, or empty where the stage has none."""

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
    kernels: str


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
        self, path: str | Path, *, audio_format: AudioFormat | None = None, bit_depth: BitDepth = "16"
    ) -> Path:
        """Writes the audio and returns the path; without a format it is that of the suffix, else wav.

        Raises:
            InvalidArgumentError: the suffix is that of another format, or the format lacks the depth.
            OSError: the file cannot be written.
        """
        target = Path(path)
        try:
            found = format_of(target, audio_format)
        except ValueError as error:
            raise InvalidArgumentError.at("path", str(error)) from None
        write_audio(target, self.audio, self.sample_rate_hz, audio_format=found, bit_depth=bit_depth)
        return target


@dataclass(frozen=True, slots=True)
class PreviewCompleted:
    """All of the preview is there: its tracks, from so many steps."""

    tracks: tuple[Track, ...]
    step_count: int


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Latent frames that were decoded for their audio, over all items, and those that were needed besides, as
    halos of the tiles: a frame of a halo costs a fraction of a wanted one."""

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
