"""What the fields of the page order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from acestage.errors import InvalidArgumentError
from acestage.generation_options import Adapter, GenerationOptions
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.order import JobOrder

CUSTOM, COVER, REPAINT = "text2music", "cover", "repaint"
EXTRACT, LEGO, COMPLETE = "extract", "lego", "complete"
MODES = (CUSTOM, COVER, REPAINT)
TRACK_MODES = (EXTRACT, LEGO, COMPLETE)
"""Those that only base models know."""
SHOWN_IN: dict[str, tuple[str, ...]] = {
    "source": (COVER, REPAINT, *TRACK_MODES),
    "start_s": (REPAINT, LEGO),
    "end_s": (REPAINT, LEGO),
    "cover_strength": (COVER,),
    "track_name": (EXTRACT, LEGO),
    "track_classes": (COMPLETE,),
    "duration_s": (CUSTOM,),
}
"""The modes of each field that not all modes have."""
METHODS = ("ode", "sde")
RANGES: dict[str, tuple[float, float]] = {
    "cover_strength": (0, 1),
    "duration_s": (10, 600),
    "take_count": (1, 8),
    "step_count": (0, 200),
    "guidance_scale": (0, 30),
    "shift": (0, 10),
}
"""Of the sliders: no value beyond them comes here. What a machine allows may be less."""


@dataclass(frozen=True, slots=True)
class SongForm:
    """The values of the fields, in their order. Empty text, None and 0 leave a choice to the model."""

    mode: str
    caption: str
    lyrics: str
    is_instrumental: bool
    source: str | None
    start_s: float | None
    end_s: float | None
    cover_strength: float
    track_name: str | None
    track_classes: list[str] | None
    duration_s: float
    take_count: int
    seed: int | None
    vocal_language: str
    bpm: int | None
    key_scale: str
    time_signature: str
    reference: str | None
    title: str
    model: str
    step_count: int
    guidance_scale: float
    shift: float
    infer_method: str
    timesteps: str
    adapters: str
    audio_format: str
    edge_fade_ms: float | None

    def order(self, source_id: str | None = None, reference_id: str | None = None) -> JobOrder:
        """The order that the fields mean, with the ids of the audio that was uploaded for it.

        Raises:
            InvalidArgumentError: a field that is a list cannot be read.
        """
        options: dict[str, Any] = {
            "task": self.mode,
            "lyrics": "" if self.is_instrumental else self.lyrics,
            "language": self.vocal_language,
            "bpm": self.bpm or None,
            "key_scale": self.key_scale,
            "time_signature": self.time_signature,
            "seed": -1 if self.seed is None else int(self.seed),
            "batch_size": int(self.take_count),
            "reference_id": reference_id,
            "model": self.model,
            "step_count": int(self.step_count) or None,
            "guidance_scale": self.guidance_scale or None,
            "shift": self.shift or None,
            "infer_method": self.infer_method,
            "timesteps": _timesteps(self.timesteps),
            "adapters": _adapters(self.adapters),
        }
        own = {
            "source": ("source_id", source_id),
            "start_s": ("repaint_start_s", self.start_s),
            "end_s": ("repaint_end_s", self.end_s),
            "cover_strength": ("audio_cover_strength", float(self.cover_strength)),
            "track_name": ("track_name", self.track_name),
            "track_classes": ("track_classes", self.track_classes),
            "duration_s": ("duration_s", float(self.duration_s)),
        }
        options |= dict(own[name] for name, modes in SHOWN_IN.items() if self.mode in modes)
        given: GenerationOptions = {  # type: ignore[assignment]
            name: value for name, value in options.items() if value not in (None, "", [])
        }
        return JobOrder(
            caption=self.caption,
            options=given,
            title=self.title.strip(),
            audio_format=ExportFormat(self.audio_format),
            edge_fade_ms=float(self.edge_fade_ms or 0.0),
        )


FIELDS = tuple(field.name for field in fields(SongForm))
OPTION_FIELDS = {
    "language": "vocal_language",
    "batch_size": "take_count",
    "source_id": "source",
    "reference_id": "reference",
    "repaint_start_s": "start_s",
    "repaint_end_s": "end_s",
    "audio_cover_strength": "cover_strength",
    "task": "mode",
}
"""Options of a generation whose field on the page has another name."""


def _timesteps(text: str) -> list[float]:
    try:
        return [float(part) for part in _parts(text)]
    except ValueError:
        raise InvalidArgumentError.at(
            "timesteps",
            f"is {text[:80]!r}; accepted: falling numbers with commas between them, such as 1, 0.6",
        ) from None


def _adapters(text: str) -> list[Adapter]:
    found = []
    for part in _parts(text):
        name, colon, scale = part.rpartition(":")
        try:
            found.append(Adapter(name, float(scale)) if colon else Adapter(part))
        except ValueError:
            raise InvalidArgumentError.at(
                "adapters", f"is {text[:80]!r}; accepted: names with commas between them, such as drums:0.8"
            ) from None
    return found


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
