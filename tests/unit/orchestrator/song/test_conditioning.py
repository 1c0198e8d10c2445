"""Conditioning that is kept for the next request with the same prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from acestage.errors import InternalError
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.text_encoder.v1 import text_encoder_pb2 as pb
from acestage.tensors import WireTensor
from services.orchestrator.song.conditioning import MAX_CACHED_BYTES, Conditioning
from services.orchestrator.stage_clients import Deadline, TextEncoderClient
from tests.unit.orchestrator.unreached import UNREACHED

TENSORS = ("encoder_hidden_states", "null_condition", "context_latents")


def tensor(name: str, value: float, byte_count: int = 4, width: int = 1) -> WireTensor:
    values = np.full(byte_count // 4, value, np.float32)
    return WireTensor(name, "float32", (1, len(values) // width, width), values.data.cast("B"))


class _CountingEncoder(TextEncoderClient):
    """A text encoder whose tensors hold the number of the encode, counted from 1.

    The first `failures` fail, and the others do as `adaptations` say, one after the other.
    """

    def __init__(
        self,
        names: Sequence[str],
        failures: int = 0,
        tensor_bytes: int = 4,
        cuts: Sequence[pb.PromptCut] = (),
        missing_frame_count: int = 0,
        adaptations: Sequence[stage_pb2.AdaptationKind] = (),
    ) -> None:
        super().__init__("text_encoder", "nowhere", UNREACHED)
        self._cuts = cuts
        self._adaptations = list(adaptations)
        self._missing_frame_count = missing_frame_count
        self._names = names
        self._failures = failures
        self._tensor_bytes = tensor_bytes
        self.count = 0

    async def encode(
        self,
        parameters: pb.EncodeParameters,
        latents: Iterable[WireTensor],
        on_event: Callable[[pb.EncodeResponse], Any],
        deadline: Deadline,
    ) -> dict[str, WireTensor]:
        self.count += 1
        if self.count <= self._failures:
            raise InternalError("not this time")
        on_event(pb.EncodeResponse())
        for cut in self._cuts:
            on_event(pb.EncodeResponse(prompt_cut=cut))
        if self._adaptations:
            adaptation = stage_pb2.Adaptation(kind=self._adaptations.pop(0))
            on_event(pb.EncodeResponse(report=stage_pb2.StageReport(adaptations=[adaptation])))
        found = {name: tensor(name, self.count, self._tensor_bytes) for name in self._names}
        if "context_latents" in found:
            frame_count = parameters.frame_count - self._missing_frame_count
            found["context_latents"] = tensor("context_latents", self.count, 4 * 2 * frame_count, width=2)
        return found


@dataclass(frozen=True)
class Asked:
    parameters: pb.EncodeParameters
    latents: tuple[WireTensor, ...] = ()
    is_turbo: bool = False
    dtype: str = "float32"


PROMPT = Asked(pb.EncodeParameters(caption="rain", frame_count=25, bpm=90, model="m"))
COVER = replace(PROMPT, latents=(tensor("source_latents", 1),))


async def ask(conditioning: Conditioning, asked: Asked) -> tuple[Sequence[WireTensor], int]:
    """The tensors, and how often the stage was heard of."""
    events: list[pb.EncodeResponse] = []
    model = Model(name="m", is_turbo=asked.is_turbo, latent_channel_count=1)
    found = await conditioning.of(
        asked.parameters, asked.latents, model, asked.dtype, events.append, Deadline(None)
    )
    return found.tensors, len(events)


def encodes(*asked: Asked, tensor_bytes: int = 4) -> list[int]:
    """Which encode each of the results came from."""

    async def run() -> list[int]:
        conditioning = Conditioning(_CountingEncoder(TENSORS, tensor_bytes=tensor_bytes))
        numbers = []
        for prompt in asked:
            found, event_count = await ask(conditioning, prompt)
            assert tuple(tensor.name for tensor in found) == TENSORS
            numbers.append(int(np.frombuffer(found[0].data, np.float32)[0]))
            assert event_count == (numbers.count(numbers[-1]) == 1)
        return numbers

    return asyncio.run(run())


def with_other(**changes: Any) -> Asked:
    parameters = pb.EncodeParameters()
    parameters.CopyFrom(PROMPT.parameters)
    parameters.MergeFrom(pb.EncodeParameters(**changes))
    return replace(PROMPT, parameters=parameters)


def test_the_same_prompt_is_encoded_once() -> None:
    again = Asked(pb.EncodeParameters(bpm=90, frame_count=25, model="m", caption="rain"))
    assert encodes(PROMPT, again, COVER, replace(COVER)) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "other",
    [
        with_other(caption="snow"),
        with_other(lyrics="la"),
        with_other(frame_count=26),
        with_other(bpm=91),
        with_other(audio_codes=[1]),
        with_other(quantization="int8"),
        replace(PROMPT, is_turbo=True),
        replace(PROMPT, dtype="bfloat16"),
        COVER,
    ],
    ids=["caption", "lyrics", "length", "bpm", "codes", "quantization", "model", "dtype", "source"],
)
def test_what_conditioning_depends_on_makes_another_encode(other: Asked) -> None:
    assert encodes(PROMPT, other, PROMPT, other) == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "latents",
    [
        (tensor("source_latents", 2),),
        (tensor("reference_latents", 1),),
        (tensor("source_latents", 1), tensor("reference_latents", 1)),
    ],
    ids=["values", "name", "count"],
)
def test_other_latents_make_another_encode(latents: tuple[WireTensor, ...]) -> None:
    assert encodes(COVER, replace(COVER, latents=latents), COVER) == [1, 2, 1]


def test_prompts_that_were_not_asked_for_longest_make_room() -> None:
    a_quarter = MAX_CACHED_BYTES // 4 // 2 - 256  # of the bytes, in the two tensors of any size
    *full, last = (with_other(caption=str(index)) for index in range(5))
    first, second, *_ = full
    asked = encodes(*full, first, last, first, second, tensor_bytes=a_quarter)
    assert asked == [1, 2, 3, 4, 1, 5, 1, 6]


def test_a_failure_is_not_kept() -> None:
    async def run() -> int:
        encoder = _CountingEncoder(TENSORS, failures=1)
        conditioning = Conditioning(encoder)
        with pytest.raises(InternalError, match="not this time"):
            await ask(conditioning, PROMPT)
        await ask(conditioning, PROMPT)
        await ask(conditioning, PROMPT)
        return encoder.count

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize(
    ("kind", "count"), [(stage_pb2.ADAPTATION_KIND_INT8, 2), (stage_pb2.ADAPTATION_KIND_FLOAT32, 1)]
)
def test_what_is_worse_because_memory_ran_out_is_not_kept(kind: stage_pb2.AdaptationKind, count: int) -> None:
    async def run() -> int:
        encoder = _CountingEncoder(TENSORS, adaptations=[kind])
        conditioning = Conditioning(encoder)
        for _ in range(3):
            await ask(conditioning, PROMPT)
        return encoder.count

    assert asyncio.run(run()) == count


def test_what_a_stage_leaves_out_is_named() -> None:
    plain = with_other(with_plain=True)
    conditioning = Conditioning(_CountingEncoder(TENSORS[:2]))
    with pytest.raises(InternalError, match="text_encoder returned no context_latents, plain_hidden_states"):
        asyncio.run(ask(conditioning, plain))


def test_context_of_another_length_than_the_song_is_the_fault_of_the_stage() -> None:
    conditioning = Conditioning(_CountingEncoder(TENSORS, missing_frame_count=20))
    with pytest.raises(
        InternalError, match=r"^text_encoder at nowhere .*\[1, 5, 2\]; accepted: \[1, 25, 2\]"
    ):
        asyncio.run(ask(conditioning, PROMPT))


def test_what_of_a_prompt_is_not_read_is_told_again_when_the_conditioning_is_still_there() -> None:
    cuts = [
        pb.PromptCut(field="caption", token_count=300, read_token_count=256),
        pb.PromptCut(field="lyrics", token_count=3000, read_token_count=2048),
    ]

    async def scenario() -> list[tuple[str, ...]]:
        conditioning = Conditioning(_CountingEncoder(TENSORS, cuts=cuts))
        events: list[pb.EncodeResponse] = []
        found = [
            await conditioning.of(
                PROMPT.parameters, (), Model(latent_channel_count=1), "float32", events.append, Deadline(None)
            )
            for _ in range(2)
        ]
        assert len(events) == 1
        return [conditioned.warnings for conditioned in found]

    first, again = asyncio.run(scenario())
    assert first == again
    caption, lyrics = first
    assert caption.startswith("caption: the model reads 256 of its 300 tokens, and bpm, time signature, key")
    assert lyrics == "lyrics: the model reads 2048 of its 3000 tokens"
