"""What fields get from the settings of a song, and what of these they cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import Any

from acestage.errors import InvalidArgumentError
from acestage.generation_options import TRACK_NAMES, Settings
from acestage.limits import Limits
from acestage.status import Status
from services.gateway.jobs.order import JobOrder
from services.gateway.page.song_form import (
    CUSTOM,
    FIELDS,
    METHODS,
    MODES,
    OPTION_FIELDS,
    RANGES,
    SHOWN_IN,
    TRACK_MODES,
)

LEFT_OUT: dict[str, Any] = {
    "lyrics": "",
    "model": "",
    "bpm": 0,
    "key_scale": "",
    "time_signature": "",
    "title": "",
    "source": None,
    "reference": None,
    "start_s": None,
    "end_s": None,
    "track_name": None,
    "track_classes": None,
    "timesteps": "",
    "adapters": "",
}
"""Fields that settings may say nothing of, with the values that mean so. Files have to be chosen again."""

_WORDS = (
    *("caption", "lyrics", "vocal_language", "key_scale", "time_signature"),
    *("title", "infer_method", "track_name"),
)
_NUMBERS = (
    *("start_s", "end_s", "cover_strength", "duration_s", "take_count", "seed", "bpm"),
    *("step_count", "guidance_scale", "shift"),
)
_NUMBER = (int, float)
_LIST = (list, tuple)
_WHOLE = ("take_count", "seed", "bpm", "step_count")
_FIELDLESS: dict[str, Any] = {
    "cfg_interval_start": 0,
    "cfg_interval_end": 1,
    "instruction": "",
    "audio_codes": "",
    "cover_noise_strength": 0,
}
"""Options without a field, with the values that change nothing."""
_ORDERED: dict[str, Any] = {
    "task": "text2music",
    "language": "en",
    "duration_s": 60.0,
    "seed": -1,
    "batch_size": 1,
    "audio_cover_strength": 1.0,
    "infer_method": "ode",
    **dict.fromkeys(("step_count", "guidance_scale", "shift"), 0),
}
"""What an order means that says nothing of these; 0 is the model's own."""
_LARGEST_EXACT = 2**53 - 1
"""Browsers round integers above."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the fields can hold where these models are served.

    Attributes:
        ranges: the least and the most of each number.
    """

    modes: Sequence[str] = MODES
    ranges: dict[str, tuple[float, float]] = field(default_factory=lambda: dict(RANGES))

    @classmethod
    def of(cls, limits: Limits, status: Status) -> Served:
        most = {"duration_s": limits.max_duration_s.value, "take_count": limits.max_batch_size.value}
        return cls(
            MODES + (TRACK_MODES if status.has_tracks_model else ()),
            RANGES | {name: (RANGES[name][0], value) for name, value in most.items()},
        )

    def can_be(self, name: str, value: Any) -> bool:
        """Whether the field `name` can have `value`; None is no choice."""
        if value is None:
            return True
        match name:
            case "mode":
                return value in self.modes
            case "infer_method":
                return value in METHODS
            case "track_name":
                return value in ("", *TRACK_NAMES)
            case "track_classes":
                return all(track in TRACK_NAMES for track in value)
            case _ if name in _NUMBERS:
                least, most = self.ranges.get(name, (-_LARGEST_EXACT, _LARGEST_EXACT))
                return least <= value <= most and (name not in _WHOLE or value == int(value))
            case _:
                return True


@dataclass(frozen=True, slots=True)
class Restored:
    """Settings as fields have them.

    Attributes:
        values: by the names of the fields.
        impossible: what fields cannot have here, which stay as they are.
        fieldless: names of settings that have no field.
        to_choose: fields of files that the song was made with.
    """

    values: dict[str, Any]
    impossible: dict[str, Any]
    fieldless: list[str]
    to_choose: list[str]


def restored(settings: dict[str, Any], served: Served) -> Restored:
    """What fields get from `settings` of a take.

    Raises:
        InvalidArgumentError: a setting is not of the kind that ours are: they may come from anybody's file.
    """
    given = {OPTION_FIELDS.get(name, name): value for name, value in settings.items() if value is not None}
    values = dict(LEFT_OUT)
    values |= {name: _kind(name, given[name], str) for name in ("mode", *_WORDS) if name in given}
    values |= {name: _kind(name, given[name], _NUMBER) for name in _NUMBERS if name in given}
    tracks = _kind("track_classes", given.get("track_classes", []), _LIST)
    values["track_classes"] = [_kind("track_classes", track, str) for track in tracks]
    impossible = {name: value for name, value in values.items() if not served.can_be(name, value)}
    values = {name: value for name, value in values.items() if name not in impossible}
    values["is_instrumental"] = not values["lyrics"]
    for name in ("track_name", "track_classes"):
        if name in values:
            values[name] = values[name] or None
    steps = _kind("timesteps", given.get("timesteps", []), _LIST)
    if steps:
        # They are the schedule: what else would set it is left out.
        text = ", ".join(_in_full("timesteps", step) for step in steps)
        values |= {"timesteps": text, "step_count": 0, "shift": 0}
    adapters = [_kind("adapters", one, dict) for one in _kind("adapters", given.get("adapters", []), _LIST)]
    values["adapters"] = ", ".join(
        f"{one.get('name')}:{_in_full('adapters', one.get('scale'))}" for one in adapters
    )
    model = _kind("model", given.get("model", {}), dict)
    values["model"] = _kind("model", model.get("name", ""), str)
    # Guidance that a turbo model was made to leave out is no choice of the musician's.
    if model.get("is_turbo"):
        values["guidance_scale"] = 0
        impossible.pop("guidance_scale", None)
    mode = values.get("mode", CUSTOM)
    wanted = {name: value for name, value in impossible.items() if mode in SHOWN_IN.get(name, (mode,))}
    to_choose = ["source"] * (mode in SHOWN_IN["source"]) + ["reference"] * bool(given.get("reference"))
    return Restored(values, wanted, _fieldless(settings), to_choose)


def ordered(order: JobOrder) -> dict[str, Any]:
    """What `order` asked for, as the settings of a song say it."""
    options: dict[str, Any] = order.to_dict()["options"]
    if seeds := list(options.pop("seeds", ())):
        options |= {"seed": seeds[0], "batch_size": len(seeds)}
        if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
            options["seeds"] = seeds
    options["model"] = {"name": options.get("model", "")}
    return _ORDERED | options | {"caption": order.caption, "title": order.title}


def _fieldless(settings: dict[str, Any]) -> list[str]:
    """Settings that the page has no field for, but for those that follow from others."""
    known = {*FIELDS, *OPTION_FIELDS, *(one.name for one in fields_of(Settings)), "clamp", "preview"}
    odd = [name for name in settings if name not in known]
    lost = [
        name for name, nothing in _FIELDLESS.items() if settings.get(name, nothing) not in (nothing, None)
    ]
    seeds = settings.get("seeds")
    has_more_seeds = isinstance(seeds, _LIST) and len(seeds) > 1
    return [*lost, *(["seeds"] if has_more_seeds else []), *odd]


def _in_full(name: str, value: Any) -> str:
    """A number with all of its digits, or the song would be another one."""
    return str(_kind(name, value, _NUMBER)).removesuffix(".0")


def _kind(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise InvalidArgumentError.at(name, f"is {str(value)[:80]!r}; accepted: settings of a song made here")
