"""What a checkpoint is: facts about its model, and the configuration and weight files of each component."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.key_schemes import KeyScheme
from acestage.errors import CheckpointError


class Layout(StrEnum):
    """How the files of a checkpoint are arranged."""

    DIFFUSERS = "diffusers"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The safetensors files of a component.

    Attributes:
        shards: one file, or all that the index names, sorted by name.
        index: the `*.safetensors.index.json` of a sharded component.
    """

    shards: tuple[Path, ...]
    index: Path | None = None

    @property
    def path(self) -> Path:
        """The file that stands for all of them in messages."""
        return self.index or self.shards[0]


@dataclass(frozen=True, slots=True)
class Component:
    """One module of the model, as files.

    Attributes:
        name: a component name, such as `transformer`.
        config: settings in terms of the class that hosts it; its path is the file they come from.
        weights: the files with its tensors, which may hold tensors of other components as well.
        scheme: how keys in the files become keys of the module.
        silence_latent: file with the condition encoder's `silence_latent`, where the weights lack it.
    """

    name: str
    config: ConfigFile
    weights: WeightFiles
    scheme: KeyScheme
    silence_latent: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the services need to know about a model without loading it.

    Attributes:
        name: folder name of the model.
        is_turbo: guidance is distilled into the weights; the model runs few steps without guidance.
        latent_channel_count: channels of a latent frame.
        latent_frame_rate_hz: latent frames a second, `sample_rate_hz / hop_sample_count`.
        sample_rate_hz: of the audio.
        hop_sample_count: audio samples (per channel) of one latent frame.
        audio_channel_count: channels of the audio.
        condition_width: features of a token of conditioning, between the encoder and the transformer.
        is_untrained: the weights are random; the audio is noise.
        knows_tracks: it was trained to extract, add and complete tracks, as base models are.
        audio_code_count: how many different audio codes there are; 0 without an audio tokenizer.
        frames_per_audio_code: latent frames for which an audio code stands; 0 without an audio tokenizer.
    """

    name: str
    is_turbo: bool
    latent_channel_count: int
    latent_frame_rate_hz: float
    sample_rate_hz: int
    hop_sample_count: int
    audio_channel_count: int
    condition_width: int
    is_untrained: bool
    knows_tracks: bool
    audio_code_count: int
    frames_per_audio_code: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine, opened: its configurations are read, its weights are not.

    Attributes:
        path: the folder: of a diffusers pipeline, or of a variant in the original layout.
        name: folder name of the model.
        layout: how the files are arranged.
        model: facts about the model.
        components: what is there; the audio tokenizer and detokenizer may be missing.
        tokenizer_path: folder of the text tokenizer.
    """

    path: Path
    name: str
    layout: Layout
    model: ModelFacts
    components: tuple[Component, ...]
    tokenizer_path: Path

    def component(self, name: str) -> Component:
        """The component called `name`.

        Raises:
            CheckpointError: the checkpoint does not have it.
        """
        for component in self.components:
            if component.name == name:
                return component
        there = ", ".join(component.name for component in self.components)
        raise CheckpointError(f"{self.path}: has no {name}; it has: {there}")
