"""What the text encoder's service makes of requests, without a stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from acestage.checkpoints import ModelFacts, open_checkpoint
from acestage.errors import FailedPreconditionError, InvalidArgumentError
from acestage.protos.text_encoder.v1.text_encoder_pb2 import EncodeParameters
from acestage.tensors import WireTensor
from services.runtime.workers.messages import Message
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.prompt import Prompt
from services.text_encoder.service import encode_request, tokenize_request

MODEL = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints")).model
WITHOUT_CODES = dataclasses.replace(MODEL, audio_code_count=0, frames_per_audio_code=0)
FRAMES = 100


def tensor(name: str, *shape: int, dtype: str = "float32") -> WireTensor:
    size = 4
    for length in shape:
        size *= length
    return WireTensor(name, dtype, shape, bytes(size))


SOURCE = tensor("source_latents", 1, FRAMES, 8)


def parse(*tensors: WireTensor, model: ModelFacts = MODEL, **changes: Any) -> Message:
    fields = {"caption": "piano", "frame_count": FRAMES, "duration_s": 4.0} | changes
    return encode_request(EncodeParameters(**fields), {tensor.name: tensor for tensor in tensors}, model)


def test_a_plain_request_is_a_job_of_a_prompt_alone() -> None:
    message = parse()
    job = EncodeJob.from_fields(message.fields)
    assert job == EncodeJob(Prompt("piano", duration_s=4.0), FRAMES)
    assert job.window == slice(0, FRAMES)
    assert not job.needs_codes
    assert message.tensors == ()


def test_a_job_crosses_to_the_worker_as_it_is() -> None:
    reference = tensor("reference_latents", 1, 750, 8)
    message = parse(
        SOURCE,
        reference,
        through_codes=True,
        window_start_frame=10,
        window_stop_frame=100,
        silence_window=True,
        with_plain=True,
        instruction="Repaint",
        quantization="int8",
    )
    assert EncodeJob.from_fields(message.fields) == EncodeJob(
        Prompt("piano", duration_s=4.0, instruction="Repaint"),
        FRAMES,
        through_codes=True,
        window_start_frame=10,
        window_stop_frame=100,
        silence_window=True,
        with_plain=True,
    )
    assert message.fields["quantization"] == "int8"
    assert message.tensors == (SOURCE, reference)


def test_codes_stand_in_for_a_source() -> None:
    job = EncodeJob.from_fields(parse(audio_codes=[0, 63_999], frame_count=10).fields)
    assert job.audio_codes == (0, 63_999)
    assert job.needs_codes


@pytest.mark.parametrize(
    ("tensors", "changes", "field", "description"),
    [
        (
            [],
            {"audio_codes": [5, 64_000, -1], "frame_count": 15},
            "parameters.audio_codes",
            "have 64000 at index 1; acc",
        ),
        (
            [],
            {"audio_codes": [-7], "frame_count": 5},
            "parameters.audio_codes",
            "have -7 at index 0; accepted: 0 to 6399",
        ),
        (
            [],
            {"audio_codes": [1, 2], "frame_count": 11},
            "parameters.frame_count",
            "is 11; accepted: 10, 5 for each of",
        ),
        (
            [tensor("source_latents", 1, 10, 8)],
            {"audio_codes": [1, 2], "frame_count": 10},
            "parameters.audio_codes",
            "exclude tensor.source_latents",
        ),
        (
            [],
            {"audio_codes": [1], "frame_count": 5, "through_codes": True},
            "parameters.through_codes",
            "is of no use",
        ),
        ([], {"through_codes": True}, "parameters.through_codes", "needs tensor.source_latents"),
        ([], {"frame_count": 0}, "parameters.frame_count", "is 0; accepted: 1 to 15000"),
        (
            [SOURCE],
            {"frame_count": 99},
            "parameters.frame_count",
            "is 99; accepted: 100, the frames of tensor.source",
        ),
        (
            [tensor("source_latents", 1, FRAMES, 9)],
            {},
            "tensor.source_latents.shape",
            "accepted: \\[1, any, 8",
        ),
        (
            [tensor("source_latents", 2, FRAMES, 8)],
            {},
            "tensor.source_latents.shape",
            "accepted: \\[1, any, 8",
        ),
        (
            [tensor("reference_latents", 1, 751, 8)],
            {},
            "tensor.reference_latents.shape",
            "has 751 frames; accepted: up to 750",
        ),
        ([], {"window_start_frame": -1}, "parameters.window_start_frame", "is -1; accepted: 0 to 99"),
        ([], {"window_start_frame": 100}, "parameters.window_start_frame", "is 100; accepted: 0 to 99"),
        (
            [],
            {"window_stop_frame": 101},
            "parameters.window_stop_frame",
            "is 101; accepted: 1 to 100, or 0 for the end",
        ),
        ([], {"window_stop_frame": -1}, "parameters.window_stop_frame", "is -1; accepted: 1 to 100"),
        (
            [],
            {"window_start_frame": 20, "window_stop_frame": 20},
            "parameters.window_stop_frame",
            "is 20; accepted: 21 to 100",
        ),
    ],
)
def test_what_is_wrong_is_named(
    tensors: list[WireTensor], changes: dict[str, Any], field: str, description: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=description) as caught:
        parse(*tensors, **changes)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse(SOURCE, caption="", frame_count=99, window_start_frame=99, window_stop_frame=120)
    fields = [violation.field for violation in caught.value.violations]
    assert fields == [
        "parameters.caption",
        "parameters.frame_count",
        "parameters.window_start_frame",
        "parameters.window_stop_frame",
    ]


@pytest.mark.parametrize(
    ("tensors", "changes", "what"),
    [
        ([SOURCE], {"through_codes": True}, "through_codes"),
        ([], {"audio_codes": [1], "frame_count": 5}, "audio_codes"),
    ],
)
def test_codes_need_a_checkpoint_that_has_an_audio_tokenizer(
    tensors: list[WireTensor], changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(FailedPreconditionError, match=f"{what} needs an audio tokenizer .* {MODEL.name}"):
        parse(*tensors, model=WITHOUT_CODES, **changes)
    assert parse(SOURCE, model=WITHOUT_CODES).tensors == (SOURCE,)


def test_a_request_for_codes_brings_latents() -> None:
    received = {"source_latents": SOURCE}
    message = tokenize_request(received, MODEL)
    assert (message.kind, message.fields["frame_count"]) == ("tokenize", FRAMES)
    with pytest.raises(FailedPreconditionError, match="Tokenize needs an audio tokenizer"):
        tokenize_request(received, WITHOUT_CODES)
    with pytest.raises(InvalidArgumentError, match=r"tensor\.source_latents: is missing"):
        tokenize_request({}, MODEL)
    with pytest.raises(InvalidArgumentError, match="has 15001 frames; accepted: up to 15000"):
        tokenize_request({"source_latents": tensor("source_latents", 1, 15_001, 8)}, MODEL)
