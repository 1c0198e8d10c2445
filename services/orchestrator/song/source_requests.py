"""The part of a generation request that is about audio: the task, its source, its window, its tracks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from acestage.checks import Checks
from acestage.generation_options import TRACK_NAMES
from acestage.limits import Limits
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.song import audio_codes
from services.orchestrator.song.tasks import (
    COMPLETE,
    COVERS,
    EXTRACT,
    LEGO,
    REPAINT,
    TASKS,
    TEXT_TO_MUSIC,
    Task,
)
from services.orchestrator.song.timeline import Span, Timeline, whole_song, with_window
from services.orchestrator.uploads.audio_facts import LEAST_DURATION_S
from services.runtime.rpc.request_limits import MAX_FRAME_COUNT

MAX_CODES_CHARACTERS = 500_000
"""Ten minutes of codes are 66,000."""

FURTHEST_S = 3600
"""A window that reaches further is a slip; one that reaches as far makes the song too long all the same."""

_WINDOW_FIELDS = ("repaint_start_s", "repaint_end_s")
_COVER_FIELDS = {"audio_cover_strength": 1.0, "cover_noise_strength": 0.0}
"""With the values that have no effect, which any task may have."""


def check(
    checks: Checks,
    request: pb.GenerateRequest,
    limits: Limits,
    model: Model | None,
    source_sample_count: int | None,
) -> None:
    """Notes every wrong field in `checks`; arguments as in `requests.check`."""
    name = request.task or TEXT_TO_MUSIC
    task = TASKS.get(name)
    if task is None:
        checks.require(False, "task", f"is {name[:50]!r}; accepted: {', '.join(TASKS)}")
        return
    if model is not None and task.needs_tracks_model and not model.knows_tracks:
        accepted = ", ".join(name for name, task in TASKS.items() if not task.needs_tracks_model)
        checks.require(False, "task", f"is {name!r}, which needs a base model; {model.name} takes {accepted}")
    _check_source(checks, request, task)
    codes = _check_codes(checks, request, task, model)
    has_own_length = bool(request.source_id or codes)
    checks.require(
        not (has_own_length and request.HasField("duration_s")),
        "duration_s",
        f"is {request.duration_s:g}; accepted: nothing, for the source or its codes set the length",
    )
    _check_cover(checks, request)
    _check_tracks(checks, request)
    is_window_fine = _check_window(checks, request, task)
    if model is None:
        return
    if is_window_fine and request.source_id and source_sample_count:
        _check_song(checks, request, limits, model, source_sample_count)
    if codes and model.frames_per_audio_code:
        duration_s = len(codes) * model.frames_per_audio_code / model.latent_frame_rate_hz
        found = f"make a song of {duration_s:g} s; accepted: {LEAST_DURATION_S} s or more"
        checks.require(duration_s >= LEAST_DURATION_S, "audio_codes", found)
        _check_length(checks, "audio_codes", duration_s, limits)


def timeline(request: pb.GenerateRequest, model: Model, source_sample_count: int | None) -> Timeline | None:
    """Where the source of `request` lies in the song; None without one."""
    if not request.source_id or source_sample_count is None:
        return None
    start_s, end_s = _window(request)
    if start_s is None and end_s is None:
        return whole_song(source_sample_count, model)
    found = with_window(source_sample_count, start_s, end_s, model)
    if request.task == REPAINT:
        return found
    # A new track is new from end to end; the window only tells the model where to add something.
    return replace(found, window=Span(0, found.sample_count))


def _check_source(checks: Checks, request: pb.GenerateRequest, task: Task) -> None:
    name = request.task or TEXT_TO_MUSIC
    if task.has_source:
        needed = "source_id or audio_codes" if task.takes_codes else "source_id"
        is_there = bool(request.source_id or (task.takes_codes and request.audio_codes.strip()))
        checks.require(is_there, "source_id", f"is empty; the task {name!r} needs {needed}")
    else:
        sourced = ", ".join(name for name, task in TASKS.items() if task.has_source)
        checks.require(
            not request.source_id, "source_id", f"is set for the task {name!r}; accepted for {sourced}"
        )


def _check_codes(
    checks: Checks, request: pb.GenerateRequest, task: Task, model: Model | None
) -> Sequence[int]:
    field = "audio_codes"
    if not request.audio_codes.strip():
        return ()
    if not task.takes_codes:
        accepted = ", ".join(name for name, task in TASKS.items() if task.takes_codes)
        checks.require(False, field, f"are set for the task {request.task!r}; accepted for {accepted}")
    elif request.source_id:
        checks.require(False, field, "are set beside source_id; accepted: one or the other")
    checks.at_most(len(request.audio_codes), "characters", field, MAX_CODES_CHARACTERS)
    if len(request.audio_codes) > MAX_CODES_CHARACTERS:
        return ()
    try:
        codes = audio_codes.parse(request.audio_codes)
    except ValueError as error:
        checks.require(False, field, str(error))
        return ()
    checks.at_most(len(codes), "codes", field, MAX_FRAME_COUNT)
    if model is not None:
        count = model.audio_code_count
        checks.require(count > 0, field, f"are set, but {model.name} has no audio tokenizer")
        wrong = next((index for index, code in enumerate(codes) if code >= count), None)
        if count and wrong is not None:
            checks.require(
                False, f"{field}[{wrong}]", f"is {codes[wrong]}; accepted: 0 to {count - 1} ({model.name})"
            )
    return codes


def _check_cover(checks: Checks, request: pb.GenerateRequest) -> None:
    is_cover = request.task in COVERS or bool(request.audio_codes.strip())
    for field, without_effect in _COVER_FIELDS.items():
        if not request.HasField(field):  # type: ignore[arg-type]
            continue
        value = getattr(request, field)
        if is_cover:
            checks.within(value, field, 0.0, 1.0)
        else:
            checks.require(
                value == without_effect, field, f"is {value:g}; accepted for {', '.join(COVERS)} alone"
            )
    if is_cover and request.cover_noise_strength > 0:
        checks.require(
            bool(request.source_id),
            "cover_noise_strength",
            f"is {request.cover_noise_strength:g}; accepted with a source_id, to start from",
        )


def _check_tracks(checks: Checks, request: pb.GenerateRequest) -> None:
    accepted = ", ".join(TRACK_NAMES)
    if request.track_name:
        checks.require(
            request.task in (EXTRACT, LEGO), "track_name", f"is set; accepted for {EXTRACT}, {LEGO} alone"
        )
        checks.require(
            request.track_name in TRACK_NAMES,
            "track_name",
            f"is {request.track_name[:50]!r}; accepted: {accepted}",
        )
    if request.track_classes:
        checks.require(request.task == COMPLETE, "track_classes", f"are set; accepted for {COMPLETE} alone")
    checks.at_most(len(request.track_classes), "tracks", "track_classes", len(TRACK_NAMES))
    seen: set[str] = set()
    for index, track in enumerate(request.track_classes[: len(TRACK_NAMES)]):
        field = f"track_classes[{index}]"
        checks.require(track in TRACK_NAMES, field, f"is {track[:50]!r}; accepted: {accepted}")
        checks.require(track not in seen, field, f"is {track[:50]!r} again; accepted: each track once")
        seen.add(track)


def _check_window(checks: Checks, request: pb.GenerateRequest, task: Task) -> bool:
    """What can be said of the window without the source; whether all of it is fine."""
    start_s, end_s = _window(request)
    windowed = ", ".join(name for name, task in TASKS.items() if task.takes_window)
    is_fine = True
    for field, value in zip(_WINDOW_FIELDS, (start_s, end_s), strict=True):
        if value is None:
            continue
        if not task.takes_window:
            checks.require(False, field, f"is {value:g}; accepted for {windowed} alone")
            is_fine = False
        elif not abs(value) <= FURTHEST_S:
            checks.require(False, field, f"is {value:.10g}; accepted: {-FURTHEST_S} to {FURTHEST_S} s")
            is_fine = False
    if is_fine and start_s is not None and end_s is not None and start_s >= end_s:
        checks.require(
            False, "repaint_start_s", f"is {start_s:.10g}; accepted: less than repaint_end_s, {end_s:.10g}"
        )
        return False
    if is_fine and start_s is None and end_s is not None and end_s <= 0:
        checks.require(False, "repaint_end_s", f"is {end_s:g}; accepted without repaint_start_s: above 0")
        return False
    return is_fine


def _check_song(
    checks: Checks, request: pb.GenerateRequest, limits: Limits, model: Model, source_sample_count: int
) -> None:
    """What the source and the window make together."""
    if not _check_window_in_source(checks, request, source_sample_count / model.sample_rate_hz):
        return
    song = timeline(request, model, source_sample_count)
    assert song is not None
    checks.require(
        len(song.window) > 0,
        "repaint_end_s" if request.HasField("repaint_end_s") else "repaint_start_s",
        "leaves nothing to generate; accepted: a window of a sample or more",
    )
    _check_length(checks, "source_id", song.sample_count / model.sample_rate_hz, limits)


def _check_window_in_source(checks: Checks, request: pb.GenerateRequest, source_s: float) -> bool:
    """Whether the window lies where it may, given the length of the source."""
    start_s, end_s = _window(request)
    extends = request.task == REPAINT
    is_start_fine = is_end_fine = True
    if start_s is not None:
        least = -math.inf if extends else 0.0
        is_start_fine = least <= start_s <= source_s and not (end_s is None and start_s == source_s)
        most = f"{'less than' if end_s is None else 'up to'} {source_s:.10g}, where the source ends"
        accepted = most if extends else f"0 or more, {most}"
        checks.require(is_start_fine, "repaint_start_s", f"is {start_s:.10g}; accepted: {accepted}")
    if end_s is not None:
        is_end_fine = 0.0 <= end_s <= (math.inf if extends else source_s)
        accepted = "0 or more, where the source begins" if extends else f"0 to {source_s:.10g}, the source"
        checks.require(is_end_fine, "repaint_end_s", f"is {end_s:.10g}; accepted: {accepted}")
    return is_start_fine and is_end_fine


def _check_length(checks: Checks, field: str, duration_s: float, limits: Limits) -> None:
    longest = limits.max_duration_s
    if longest.value:
        checks.require(
            duration_s <= longest.value,
            field,
            f"makes a song of {duration_s:.10g} s; accepted: up to {longest.value:.10g} ({longest.source})",
        )


def _window(request: pb.GenerateRequest) -> tuple[float | None, float | None]:
    start_s = request.repaint_start_s if request.HasField("repaint_start_s") else None
    end_s = request.repaint_end_s if request.HasField("repaint_end_s") else None
    return start_s, end_s
