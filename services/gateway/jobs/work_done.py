"""How much of a job is done, by how long its parts take."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any

from acestage.generation import GenerationEvent, StageCompleted, StageProgress, StageStarted, StageWaiting

ENCODE, TEXT_ENCODER, DIT, DECODE = "encode", "text_encoder", "dit", "decode"
PARTS = (ENCODE, TEXT_ENCODER, DIT, DECODE)
"""Of a job, in their order. The VAE has two: it encodes what the song is made of, and decodes the song."""

_GUESS_S: Mapping[str, float] = {ENCODE: 4.0, TEXT_ENCODER: 0.7, DIT: 6.4, DECODE: 8.3}
"""For 30 s of audio in 8 steps on a CPU, by docs/benchmarks.md; of an encode, half of a decode."""
_KEPT_COUNT = 20
_ALMOST = 0.99
"""Files are written at the end."""


class PartTimes:
    """Seconds that each part of the last jobs took."""

    def __init__(self) -> None:
        self._known_s = {part: deque[float](maxlen=_KEPT_COUNT) for part in PARTS}

    def add(self, stages: Sequence[Mapping[str, Any]]) -> None:
        """Learns from the `stages` of a record; where they cannot be read, nothing."""
        found_s: dict[str, float] = {}
        has_denoised = False
        try:
            for stage in stages:
                name = stage["stage"]
                has_denoised |= name == DIT
                took = datetime.fromisoformat(stage["ended_at"]) - datetime.fromisoformat(stage["started_at"])
                part = _part(name, has_denoised)
                found_s[part] = found_s.get(part, 0.0) + took.total_seconds()
        except (KeyError, TypeError, ValueError):
            return
        for part in PARTS:
            if found_s.get(part, 0.0) > 0.0:
                self._known_s[part].append(found_s[part])

    def expected_s(self) -> Mapping[str, float]:
        """Of each part; of one that was never there, as the others lead to expect."""
        known_s = {part: fmean(seconds) for part, seconds in self._known_s.items() if seconds}
        guessed_s = sum(_GUESS_S[part] for part in known_s)
        pace = sum(known_s.values()) / guessed_s if guessed_s else 1.0
        return {part: guess_s * pace for part, guess_s in _GUESS_S.items()} | known_s


class WorkDone:
    """How much of one job is done, from 0 to less than 1. It never falls, though stages may begin anew.

    Args:
        expected_s: seconds of each part.
        has_audio: the job works on audio, or has the sound of some.
    """

    def __init__(self, expected_s: Mapping[str, float], has_audio: bool) -> None:
        self._expected_s = {part: expected_s[part] for part in PARTS if has_audio or part != ENCODE}
        self._has_denoised = False
        self._done = 0.0

    def is_encode(self, stage: str) -> bool:
        """Whether `stage` reads a source or a reference now."""
        return _part(stage, self._has_denoised) == ENCODE

    def after(self, event: GenerationEvent) -> float:
        """How much that is once the job has said `event`."""
        match event:
            case StageWaiting() | StageStarted():
                within = 0.0
            case StageProgress():
                within = event.done_count / max(event.total_count, 1)
            case StageCompleted():
                within = 1.0
            case _:
                return self._done
        self._has_denoised |= event.stage == DIT
        total_s, part = sum(self._expected_s.values()), _part(event.stage, self._has_denoised)
        if total_s > 0 and part in self._expected_s:
            before_s = sum(s for name, s in self._expected_s.items() if PARTS.index(name) < PARTS.index(part))
            done = (before_s + within * self._expected_s[part]) / total_s
            self._done = max(self._done, min(done, _ALMOST))
        return self._done


def _part(stage: str, has_denoised: bool) -> str:
    if stage == "vae":
        return DECODE if has_denoised else ENCODE
    return stage
