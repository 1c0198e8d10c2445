"""The ways of a decode and an encode: smaller tiles, and no more than is still to be done."""

from __future__ import annotations

import dataclasses

from acestage.errors import VramBudgetExceededError
from acestage.planning import GIB, MIB, ActivationCurve, StageMemory
from acestage.tensors import WireTensor
from services.runtime.jobs.job_budget import AdaptationKind, Resources
from services.runtime.jobs.ladder import Ladder
from services.runtime.workers.messages import Message
from services.vae.budget import VaeBudget

MEMORY = StageMemory(
    context_bytes=10 * MIB,
    reserve_bytes=0,
    weights_bytes={"none": 100 * MIB},
    activations={
        ("tile", "none"): ActivationCurve(((1, MIB), (1000, 1000 * MIB))),
        ("encode_tile", "none"): ActivationCurve(((1, 201 * MIB), (1000, 1200 * MIB))),
    },
    halo_frame_count=9,
    encoder_halo_frame_count=7,
)
RESOURCES = Resources("cuda:0", GIB, "tiny-turbo", "bfloat16", "auto", {"bfloat16": MEMORY}, 128)


def decode_request(**changes: int) -> Message:
    fields = {"tile_frame_count": 0, "frame_count": 500, "start_frame": 0, "stop_frame": 500}
    return Message("decode", fields | changes, (WireTensor("latents", "float32", (1, 1, 1), bytes(4)),))


def encode_request(**changes: int) -> Message:
    return Message("encode", {"tile_frame_count": 0, "frame_count": 500, "start_frame": 0} | changes)


def tiles_and_bytes(request: Message, device: str = "cuda:0") -> list[tuple[int, int]]:
    resources = dataclasses.replace(RESOURCES, device=device)
    rungs = VaeBudget().rungs(request, resources, "bfloat16")
    assert {rung.kind for rung in rungs} == {AdaptationKind.SMALLER_TILE}
    return [(r.attempt.request.fields["tile_frame_count"], r.attempt.vram_bytes // MIB) for r in rungs]


def test_a_decode_tries_smaller_tiles_with_its_halo() -> None:
    assert tiles_and_bytes(decode_request())[:3] == [(128, 256), (96, 224), (64, 192)]


def test_an_encode_counts_the_encoder_and_its_own_halo() -> None:
    assert tiles_and_bytes(encode_request())[:3] == [(128, 452), (96, 420), (64, 388)]


def test_on_the_cpu_what_arrived_lies_in_the_memory_that_is_planned() -> None:
    audio = WireTensor("audio", "float32", (1, 7 * MIB, 1), bytes(28 * MIB))
    request = dataclasses.replace(encode_request(), tensors=(audio,))
    assert tiles_and_bytes(request) == tiles_and_bytes(encode_request())
    more = [(tile, size + 28) for tile, size in tiles_and_bytes(encode_request())]
    assert tiles_and_bytes(request, device="cpu") == more


def test_a_range_takes_tiles_no_larger_than_itself() -> None:
    assert tiles_and_bytes(decode_request(start_frame=100, stop_frame=120))[0] == (20, 148)


def test_a_decode_goes_on_behind_the_tiles_that_were_sent() -> None:
    ladder = Ladder("vae", VaeBudget(), RESOURCES, decode_request())
    ladder.sent(Message("tile", {"item_index": 0, "stop_frame": 144}))
    ladder.step_down(VramBudgetExceededError("no memory"))
    fields = ladder.attempt.request.fields
    assert fields["start"] == {"item_index": 0, "frame": 144}
    assert (fields["tile_frame_count"], fields["frame_count"]) == (96, 500)


def test_an_encode_goes_on_behind_the_latents_that_were_passed_on() -> None:
    ladder = Ladder("vae", VaeBudget(), RESOURCES, encode_request())
    ladder.sent(Message("tile", {"stop_frame": 384}))
    for _ in range(3):
        ladder.step_down(VramBudgetExceededError("no memory"))
    fields = ladder.attempt.request.fields
    assert (fields["start_frame"], fields["frame_count"], fields["tile_frame_count"]) == (384, 500, 48)
