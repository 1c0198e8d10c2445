"""What requests may hold: limits that the orchestrator and the stages share, and the checks of a prompt."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

from acestage.checks import Checks
from acestage.planning import MAX_DURATION_S

MAX_FRAME_COUNT = 25 * MAX_DURATION_S
"""Latent frames of the longest song, at 25 a second."""
MAX_TOKEN_COUNT = 256 + 2_048 + 1
"""Tokens of conditioning that the text encoder makes of the longest prompt: text, lyrics, one of timbre.
Plans are made for as many."""
MAX_ADAPTER_COUNT = 4
"""Adapters of a request."""
MAX_MAGNITUDE = 1e6
"""Of a tensor's values: audio, latents and conditioning have far less, and squares stay within float32."""
ADAPTER_SCALE = (-4.0, 4.0)
TIMBRE_REFERENCE_S = 30
"""Seconds of reference audio that the timbre encoder reads at most, as it was trained."""

CHARACTERS = {"caption": 10_000, "lyrics": 50_000, "instruction": 1_000}
"""The most characters of each text."""
QUANTIZATIONS = ("none", "int8")
InferMethod = Literal["ode", "sde"]
INFER_METHODS: tuple[InferMethod, ...] = get_args(InferMethod)
BPM = (30, 300)
TIME_SIGNATURES = ("2", "3", "4", "6")
_LANGUAGE_CODES = (
    "ar az bg bn ca cs da de el en es fa fi fr he hi hr ht hu id is it ja ko la lt ms ne nl no pa pl pt ro",
    "ru sa sk sr sv sw ta te th tl tr uk ur vi yue zh unknown",
)
LANGUAGES = frozenset(code for line in _LANGUAGE_CODES for code in line.split())
"""Languages that the model was trained to sing in."""
KEY_SCALES = frozenset(
    f"{note}{accidental} {mode}"
    for note in "ABCDEFG"
    for accidental in ("", "#", "b", "♯", "♭")
    for mode in ("major", "minor")
)


class PromptRequest(Protocol):
    """The fields by which `GenerateRequest` and `EncodeParameters` say what the music should be."""

    @property
    def caption(self) -> str: ...

    @property
    def lyrics(self) -> str: ...

    @property
    def instruction(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def bpm(self) -> int: ...

    @property
    def key_scale(self) -> str: ...

    @property
    def time_signature(self) -> str: ...

    def HasField(self, field_name: Any, /) -> bool: ...


def check_prompt(checks: Checks, request: PromptRequest, prefix: str = "") -> None:
    """Notes every wrong field of the prompt in `checks`; only the caption must be given.

    `prefix` is what the fields' names begin with.
    """
    checks.require(bool(request.caption.strip()), f"{prefix}caption", "is empty; say what the music is like")
    for field, most in CHARACTERS.items():
        checks.at_most(len(getattr(request, field)), "characters", prefix + field, most)
    if request.HasField("bpm"):
        checks.within(request.bpm, f"{prefix}bpm", *BPM)
    for field, accepted, words in (
        ("language", LANGUAGES, ", ".join(sorted(LANGUAGES))),
        ("key_scale", KEY_SCALES, "a note A to G, optionally # or b, and major or minor, such as 'F# minor'"),
        ("time_signature", TIME_SIGNATURES, ", ".join(TIME_SIGNATURES)),
    ):
        value = getattr(request, field).strip()
        checks.require(
            not value or value in accepted, prefix + field, f"is {value[:50]!r}; accepted: {words}"
        )


def check_quantization(checks: Checks, value: str, field: str) -> None:
    """`value` must be "none", "int8", or empty, which leaves it to the stage."""
    checks.require(value in ("", *QUANTIZATIONS), field, f"is {value[:50]!r}; accepted: none, int8")


def check_infer_method(checks: Checks, value: str, field: str) -> None:
    """`value` must be "ode", "sde", or empty, which is "ode"."""
    accepted = ", ".join(INFER_METHODS)
    checks.require(value in ("", *INFER_METHODS), field, f"is {value[:50]!r}; accepted: {accepted}")
