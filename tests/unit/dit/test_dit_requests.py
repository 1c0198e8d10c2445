"""Requests of the DiT: what is accepted, which tensors go with what, and what they add to a plan."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.adapters import AdapterFolder
from acestage.checkpoints import open_checkpoint
from acestage.errors import InvalidArgumentError
from acestage.protos.dit.v1 import dit_pb2
from acestage.tensors import WireTensor
from services.dit.budget import DitBudget
from services.dit.parameters import AdapterUse
from services.dit.service import DitServicer, parameters_from_pb
from services.dit.worker import _parameters
from services.runtime.jobs.job_budget import Resources
from services.runtime.rpc.model_catalog import ModelCatalog
from services.runtime.workers.messages import Message
from tests.unit.stage_fakes import memory

FRAMES, WIDTH, CHANNELS = 50, 64, 8
SHAPES = {
    "encoder_hidden_states": (1, 12, WIDTH),
    "null_condition": (1, 1, WIDTH),
    "context_latents": (1, FRAMES, 2 * CHANNELS),
}
PLAIN = {"plain_hidden_states": (1, 9, WIDTH)}
SOURCE = {"source_latents": (1, FRAMES, CHANNELS)}


def parameters(**changes: Any) -> dit_pb2.DenoiseParameters:
    fields = {"seeds": [1], "step_count": 2, "shift": 3.0, "guidance_scale": 1.0, "cfg_interval_end": 1.0}
    return dit_pb2.DenoiseParameters(**fields | changes)


def job(shapes: dict[str, tuple[int, ...]], **changes: Any) -> Message:
    model = open_checkpoint("tiny-turbo", checkpoints_dir=Path()).model
    servicer = DitServicer(None, ModelCatalog([model]), AdapterFolder(Path("adapters")))  # type: ignore[arg-type]
    received = {name: WireTensor.from_torch(name, torch.zeros(shape)) for name, shape in shapes.items()}
    return servicer._job(model, parameters_from_pb(parameters(**changes)), "", received)


def test_what_is_not_set_has_its_default() -> None:
    found = parameters_from_pb(parameters())
    assert (found.audio_cover_strength, found.cover_noise_strength, found.infer_method) == (1.0, 0.0, "ode")
    assert parameters_from_pb(parameters(audio_cover_strength=0.0)).audio_cover_strength == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio_cover_strength", -0.1),
        ("audio_cover_strength", math.nan),
        ("cover_noise_strength", 1.1),
        ("cover_noise_strength", math.inf),
        ("infer_method", "euler"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parameters_from_pb(parameters(**{field: value}))
    assert [violation.field for violation in caught.value.violations] == [f"parameters.{field}"]
    assert "accepted" in caught.value.violations[0].description


@pytest.mark.parametrize(
    ("more", "changes", "words"),
    [
        (
            {},
            {"audio_cover_strength": 0.5},
            r"plain_hidden_states: is missing; .*audio_cover_strength below 1",
        ),
        (PLAIN, {}, r"plain_hidden_states: was sent; accepted: with .*audio_cover_strength below 1"),
        ({}, {"cover_noise_strength": 0.5}, r"source_latents: is missing; .*cover_noise_strength above 0"),
        (SOURCE, {}, r"source_latents: was sent; accepted: with .*cover_noise_strength above 0"),
        (
            {"plain_hidden_states": (1, 9, WIDTH + 1)},
            {"audio_cover_strength": 0.5},
            r"tensor\.plain_hidden_states\.shape",
        ),
        (
            {"plain_hidden_states": (1, 4097, WIDTH)},
            {"audio_cover_strength": 0.5},
            r"tensor\.plain_hidden_states\.shape: has 4097 tokens",
        ),
        (
            {"source_latents": (1, FRAMES + 1, CHANNELS)},
            {"cover_noise_strength": 0.5},
            r"tensor\.source_latents\.shape",
        ),
    ],
)
def test_tensors_go_with_the_parameters_that_need_them(
    more: dict[str, tuple[int, ...]], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        job(SHAPES | more, **changes)


def test_the_worker_is_told_what_was_asked_for() -> None:
    message = job(
        SHAPES | PLAIN | SOURCE, audio_cover_strength=0.5, cover_noise_strength=0.25, infer_method="sde"
    )
    told = _parameters(message)
    assert (told.audio_cover_strength, told.cover_noise_strength, told.infer_method) == (0.5, 0.25, "sde")
    assert message.tensor_map().keys() == (SHAPES | PLAIN | SOURCE).keys()


@pytest.mark.parametrize(("dtype", "item_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_plain_states_and_adapters_are_planned_for(dtype: str, item_bytes: int) -> None:
    def planned(message: Message) -> list[int]:
        memories = {dtype: memory()}
        resources = Resources("cpu", 1 << 40, "tiny-turbo", dtype, "auto", memories, 128)
        return [rung.attempt.vram_bytes for rung in DitBudget().rungs(message, resources, dtype)]

    plain = planned(job(SHAPES, guidance_scale=7.0))
    blended = planned(job(SHAPES | PLAIN, guidance_scale=7.0, audio_cover_strength=0.5))
    more = (9 * WIDTH + FRAMES * CHANNELS) * item_bytes
    assert blended == [size + more for size in plain]

    message = job(SHAPES, guidance_scale=7.0)
    uses = [
        dataclasses.asdict(AdapterUse("x", 1.0, "/x", None, "", 1, 1, count, widest))
        for count, widest in ((1000, 30), (20, 70))
    ]
    adapted = planned(Message(message.kind, {**message.fields, "adapters": uses}, message.tensors))
    # Beside the matrices, what one adapter gives for the tokens of a pass: those of both halves, or of one.
    tokens = [50, 25, 50, 25]
    more_each = [(1020 + count * 70) * item_bytes for count in tokens]
    assert adapted == [size + more for size, more in zip(plain, more_each, strict=True)]
