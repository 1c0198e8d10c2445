"""What the text encoder is asked for, without the tensors that come with it. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.runtime.rpc.request_limits import TIMBRE_REFERENCE_S
from services.text_encoder.prompt import Prompt


def timbre_frame_count(latent_frame_rate_hz: float) -> int:
    """Latent frames that the timbre encoder reads at most."""
    return math.ceil(TIMBRE_REFERENCE_S * latent_frame_rate_hz)


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """One song's conditioning.

    Attributes:
        prompt: what the music should be.
        frame_count: latent frames of the song.
        audio_codes: stand in for source latents, one for every few frames; empty where there are none.
        through_codes: the source latents go through the audio tokenizer and back before they are used.
        window_start_frame: the first frame to be generated.
        window_stop_frame: the frame before which generation ends; 0 is the end of the song.
        silence_window: within the window the source becomes silence.
        with_plain: the prompt is also encoded with the instruction of the text-to-music task.
    """

    prompt: Prompt
    frame_count: int
    audio_codes: tuple[int, ...] = ()
    through_codes: bool = False
    window_start_frame: int = 0
    window_stop_frame: int = 0
    silence_window: bool = False
    with_plain: bool = False

    @property
    def window(self) -> slice:
        """The frames to be generated."""
        return slice(self.window_start_frame, self.window_stop_frame or self.frame_count)

    @property
    def needs_codes(self) -> bool:
        """Whether it takes the audio tokenizer or the detokenizer."""
        return self.through_codes or bool(self.audio_codes)

    def to_fields(self) -> dict[str, Any]:
        """As JSON values of a message."""
        return dataclasses.asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> EncodeJob:
        """What `to_fields` gave; other fields of the message are left alone."""
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in fields.items() if name in names}
        known["prompt"] = Prompt(**known["prompt"])
        known["audio_codes"] = tuple(known.get("audio_codes", ()))
        return cls(**known)
