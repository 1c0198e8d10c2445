"""What the fields of the page order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from acestage.generation_options import GenerationOptions
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.order import JobOrder

CUSTOM, COVER, REPAINT = "text2music", "cover", "repaint"
MODES = (CUSTOM, COVER, REPAINT)


@dataclass(frozen=True, slots=True)
class SongForm:
    """The values of the fields, in the order of the page. Empty text and 0 leave a choice to the model."""

    mode: str
    caption: str
    lyrics: str
    is_instrumental: bool
    source: str | None
    start_s: float | None
    end_s: float | None
    cover_strength: float
    vocal_language: str
    bpm: int | None
    key_scale: str
    time_signature: str
    duration_s: float
    seed: int | None
    take_count: int
    step_count: int
    guidance_scale: float
    shift: float
    infer_method: str
    audio_format: str
    title: str

    def order(self, source_id: str | None) -> JobOrder:
        """The order that the fields mean, for the uploaded `source_id` where the mode needs one."""
        options: dict[str, Any] = {
            "task": self.mode,
            "lyrics": "" if self.is_instrumental else self.lyrics,
            "language": self.vocal_language,
            "bpm": self.bpm or None,
            "key_scale": self.key_scale,
            "time_signature": self.time_signature,
            "seed": -1 if self.seed is None else int(self.seed),
            "batch_size": int(self.take_count),
            "step_count": int(self.step_count) or None,
            "guidance_scale": self.guidance_scale or None,
            "shift": self.shift or None,
            "infer_method": self.infer_method,
        }
        if self.mode == CUSTOM:
            options["duration_s"] = float(self.duration_s)
        else:
            options["source_id"] = source_id
        if self.mode == COVER:
            options["audio_cover_strength"] = float(self.cover_strength)
        if self.mode == REPAINT:
            options |= {"repaint_start_s": self.start_s, "repaint_end_s": self.end_s}
        given: GenerationOptions = {  # type: ignore[assignment]
            name: value for name, value in options.items() if value not in (None, "")
        }
        return JobOrder(
            caption=self.caption,
            options=given,
            title=self.title.strip(),
            audio_format=ExportFormat(self.audio_format),
        )


FIELDS = tuple(field.name for field in fields(SongForm))
OPTION_FIELDS = {
    "language": "vocal_language",
    "batch_size": "take_count",
    "source_id": "source",
    "repaint_start_s": "start_s",
    "repaint_end_s": "end_s",
    "audio_cover_strength": "cover_strength",
    "task": "mode",
}
"""Options of a generation whose field on the page has another name."""


LEFT_TO_THE_MODEL: dict[str, Any] = {"bpm": None, "key_scale": "", "time_signature": "", "title": ""}
"""Fields that settings may say nothing of, with the values that mean so."""


def restored(settings: dict[str, Any]) -> dict[str, Any]:
    """The values of fields that `settings` of a take give; a source has to be chosen again."""
    given = {name: value for name, value in settings.items() if value is not None}
    values = LEFT_TO_THE_MODEL | {OPTION_FIELDS.get(name, name): value for name, value in given.items()}
    if values.get("mode") not in MODES:
        values.pop("mode", None)
    values["is_instrumental"] = not values.get("lyrics")
    values.pop("source", None)
    # Guidance that a turbo model was made to leave out is no choice of the musician's.
    if (settings.get("model") or {}).get("is_turbo"):
        values["guidance_scale"] = 0
    return {name: value for name, value in values.items() if name in FIELDS}
