"""What a client of a front door orders."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from acestage.generation_options import Adapter, GenerationOptions
from services.gateway.exports.formats import ExportFormat


def known_values(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Those of `values` that are fields of `cls`: a newer version may have written others."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A song to be made, and how it is to be handed over.

    Attributes:
        caption: what the music is like.
        options: of the generation, as `acestage.Client` takes them.
        title: for tags and file names; empty takes the caption.
        audio_format: of the files that are made when the song is ready; others are made when asked for.
        edge_fade_ms: a fade at both ends of exported files.
        notes: for people: what of the request was left out, and why. They come with the result.
    """

    caption: str
    options: GenerationOptions
    title: str = ""
    audio_format: ExportFormat = ExportFormat.mp3
    edge_fade_ms: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The title, or what stands in for it."""
        return self.title or self.caption

    @property
    def take_count(self) -> int:
        """Takes that are asked for; a limit may make them fewer, never more."""
        return len(self.options.get("seeds", ())) or self.options.get("batch_size", 1)

    def is_same(self, other: JobOrder) -> bool:
        """Whether both ask for the same, be it that one of them was read from disk."""
        return json.dumps(self.to_dict()) == json.dumps(other.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> JobOrder:
        options: GenerationOptions = values["options"]
        if "adapters" in options:
            adapters: list[Any] = list(options["adapters"])
            options["adapters"] = [Adapter(**known_values(Adapter, adapter)) for adapter in adapters]
        return cls(
            **known_values(cls, values)
            | {
                "options": options,
                "audio_format": ExportFormat(values["audio_format"]),
                "notes": tuple(values["notes"]),
            }
        )
