"""Tensors that arrive with values that are not finite, or huge, are refused by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.errors import InvalidArgumentError
from acestage.tensors import WireTensor
from services.dit import worker as dit_worker
from services.dit.parameters import DenoiseParameters
from services.runtime.workers.messages import Message
from services.runtime.workers.received import received_tensors
from services.vae import worker as vae_worker
from services.vae.audio_checks import require_usable

TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
NAN, INF = float("nan"), float("inf")
FRAMES, HOP = 12, 1920
SHAPES = {
    "encoder_hidden_states": (1, 5, 64),
    "null_condition": (1, 1, 64),
    "context_latents": (1, FRAMES, 16),
    "plain_hidden_states": (1, 4, 64),
    "source_latents": (1, FRAMES, 8),
}


def tensor(name: str, *shape: int, value: float = 0.0, dtype: torch.dtype = torch.float32) -> WireTensor:
    values = torch.zeros(shape, dtype=dtype)
    values.view(-1)[-1] = value
    return WireTensor.from_torch(name, values)


@torch.no_grad()
def run(worker: Any, request: Message) -> list[Message]:
    return list(worker.run(request))


@pytest.fixture(scope="module", params=[torch.float32, torch.float16], ids=str)
def dit(request: pytest.FixtureRequest) -> dit_worker.DitWorker:
    worker = dit_worker.load(TINY)
    worker.place(torch.device("cpu"), request.param, "none")
    return worker


@pytest.fixture(scope="module")
def vae() -> vae_worker.VaeWorker:
    worker = vae_worker.load(TINY)
    worker.place(torch.device("cpu"), torch.float32, "none")
    return worker


def denoise(wrong: str = "", value: float = 0.0) -> Message:
    parameters = DenoiseParameters((1,), step_count=1, audio_cover_strength=0.5, cover_noise_strength=0.5)
    tensors = (tensor(name, *shape, value=value if name == wrong else 0.0) for name, shape in SHAPES.items())
    return Message("denoise", dataclasses.asdict(parameters), tuple(tensors))


def decode(first: WireTensor, *later: WireTensor) -> Message:
    fields = {
        "frame_count": FRAMES * (1 + len(later)),
        "tile_frame_count": 0,
        "start_frame": 0,
        "stop_frame": FRAMES * (1 + len(later)),
    }
    pieces: Iterator[Message] = (Message("latents", tensors=(piece,)) for piece in later)
    return Message("decode", fields, (first,), pieces)


def encode() -> Message:
    fields = {"frame_count": 2, "tile_frame_count": 0, "start_frame": 0}
    return Message("encode", fields, (tensor("audio", 1, 2 * HOP, 2, value=0.5),))


def test_good_tensors_are_let_through(dit: dit_worker.DitWorker, vae: vae_worker.VaeWorker) -> None:
    piece = tensor("latents", 1, FRAMES, 8)
    assert run(dit, denoise())[-1].kind == "latents"
    assert run(vae, decode(piece, piece))[-1].kind == "tile"
    assert run(vae, encode())[-1].kind == "tile"


@pytest.mark.parametrize("value", [NAN, -INF, 3e38])
@pytest.mark.parametrize("name", SHAPES)
def test_the_dit_refuses_what_is_not_finite_or_huge(
    dit: dit_worker.DitWorker, name: str, value: float
) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"tensor\.{name}: has values that are too large"):
        run(dit, denoise(name, value))


@pytest.mark.parametrize("value", [NAN, INF, -3e38])
def test_the_vae_refuses_what_is_not_finite_or_huge(vae: vae_worker.VaeWorker, value: float) -> None:
    good, bad = tensor("latents", 1, FRAMES, 8), tensor("latents", 1, FRAMES, 8, value=value)
    for request in (decode(bad), decode(good, bad)):
        with pytest.raises(InvalidArgumentError, match=r"tensor\.latents: has values that are too large"):
            run(vae, request)
    with pytest.raises(
        InvalidArgumentError, match=re.escape(f"tensor.audio: is {value:g} at sample 11 of channel 1")
    ):
        require_usable(tensor("audio", 1, 12, 2, value=value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_values_of_every_type_are_looked_at(dtype: torch.dtype, value: float) -> None:
    for size in (1, 100_003):
        with pytest.raises(InvalidArgumentError, match=r"tensor\.x"):
            received_tensors(Message("any", tensors=(tensor("x", size, value=value, dtype=dtype),)))


@pytest.mark.parametrize("dit", [torch.float32], indirect=True)
@pytest.mark.parametrize("name", SHAPES)
def test_what_the_dit_makes_of_the_largest_values_is_finite(dit: dit_worker.DitWorker, name: str) -> None:
    (made,) = run(dit, denoise(name, 1e6))[-1].tensors
    assert made.to_torch().isfinite().all()


def test_what_the_vae_makes_of_the_largest_values_is_finite(vae: vae_worker.VaeWorker) -> None:
    (made,) = run(vae, decode(tensor("latents", 1, FRAMES, 8, value=-1e6)))[-1].tensors
    assert made.to_torch().isfinite().all()


def test_the_largest_values_and_whole_numbers_are_fine() -> None:
    largest = tensor("x", 3, value=65504.0, dtype=torch.float16)
    whole = tensor("y", 3, value=7, dtype=torch.int64)
    found = received_tensors(Message("any", tensors=(largest, whole)))
    assert (found["x"][-1].item(), found["y"][-1].item()) == (65504.0, 7)
