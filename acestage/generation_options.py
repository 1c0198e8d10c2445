"""What a client asks for, and the settings that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict, cast

from acestage.protos.dit.v1 import dit_pb2

TRACK_NAMES = (
    *("vocals", "backing_vocals", "drums", "bass", "guitar", "keyboard", "percussion", "strings"),
    *("synth", "fx", "brass", "woodwinds"),
)
"""The tracks that ACE-Step 1.5 was trained to tell apart."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter by its name in the services' folder, and how much of it, -4 to 4."""

    name: str
    scale: float = 1.0

    def to_pb(self) -> dit_pb2.Adapter:
        return dit_pb2.Adapter(name=self.name, scale=self.scale)

    @classmethod
    def from_pb(cls, adapter: dit_pb2.Adapter) -> Adapter:
        return cls(adapter.name, adapter.scale) if adapter.HasField("scale") else cls(adapter.name)


class GenerationOptions(TypedDict, total=False):
    """Options of a generation; what is left out takes the model's default, which the result reports.

    Attributes:
        lyrics: up to 50,000 characters; empty is an instrumental.
        language: code of the lyrics' language ("en").
        duration_s: 10 to 600 seconds (60, or the limit where that is lower), which the song rounds up to
            whole latent frames of 40 ms; `Client.limits` says how much the services allow.
        bpm: 30 to 300 beats a minute.
        key_scale: a note and a mode, such as "F# minor".
        time_signature: "2", "3", "4" or "6".
        seed: item i of the batch uses seed + i; -1 draws one; else 0 to 9223372036854775799.
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
        audio_cover_strength: for covers, 0 to 1 (1); below 1, what the prompt without the task's instruction
            gives over the same source is blended in.
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
class Model:
    """What made the music. `is_untrained`: random weights, so the sound only proves the path."""

    name: str
    is_turbo: bool
    is_untrained: bool


_NO_OPTIONS = ("caption", "seed", "batch_size", "device", "dtype", "kernels")
"""Settings that are no options, or that `seeds` say."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting that a job used, defaults included; the same settings give the same audio.

    Attributes:
        device: and `dtype`, `quantization`: where and how the DiT worked.
        kernels: "compiled", "eager", or "mixed" where both had a part in the song.
    """

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
    kernels: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_options(self) -> GenerationOptions:
        """The options that, with the caption, make the same song again where the same model is served."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        options["model"] = self.model.name
        for name in _NO_OPTIONS:
            del options[name]
        if self.source_id or self.audio_codes:
            del options["duration_s"]  # they set it
        given = {name: value for name, value in options.items() if value is not None}
        return cast(GenerationOptions, given)
