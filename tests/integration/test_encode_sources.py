"""The text encoder by itself over gRPC: sources, references and codes, and streams that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import torch

from acestage import tensors
from acestage.errors import InvalidArgumentError
from acestage.protos.text_encoder.v1 import text_encoder_pb2 as pb
from acestage.protos.text_encoder.v1 import text_encoder_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from acestage.tensors import TensorDecoder, WireTensor
from tests.running_stack import RunningStack, wait_until

CHANNELS, FRAMES = 8, 60


@pytest.fixture(autouse=True)
def _services_live_on(turbo_stack: RunningStack) -> Iterator[None]:
    """After each test nothing is held, nothing runs, and all stages serve."""
    yield
    wait_until(turbo_stack.is_idle, "nothing runs", timeout_s=10.0)
    assert turbo_stack.is_serving()


def latents(frame_count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(1, frame_count, CHANNELS, generator=torch.Generator().manual_seed(seed))


def chunks(**parts: torch.Tensor) -> Iterator[tensors.pb.TensorChunk]:
    for name, tensor in parts.items():
        yield from tensors.encode(WireTensor.from_torch(name, tensor))


def call(stack: RunningStack, method: str, requests: list[Any]) -> list[Any]:
    with grpc.insecure_channel(stack.address("text_encoder")) as channel:
        stub = text_encoder_pb2_grpc.TextEncoderServiceStub(channel)
        try:
            return list(getattr(stub, method)(iter(requests), timeout=60))
        except grpc.RpcError as error:
            raise from_rpc_error(error, target="text_encoder") from error


def encode(
    stack: RunningStack, parts: dict[str, torch.Tensor] | None = None, **changes: Any
) -> dict[str, torch.Tensor]:
    fields = {"caption": "piano", "frame_count": FRAMES, "duration_s": FRAMES / 25} | changes
    first = pb.EncodeRequest(parameters=pb.EncodeParameters(**fields))
    responses = call(
        stack, "Encode", [first, *(pb.EncodeRequest(tensor=chunk) for chunk in chunks(**(parts or {})))]
    )
    assert responses[-1].WhichOneof("event") == "report"
    decoder = TensorDecoder()
    for response in responses:
        if response.WhichOneof("event") == "tensor":
            decoder.feed(response.tensor)
    return {name: tensor.to_torch() for name, tensor in decoder.finish().items()}


def tokenize(stack: RunningStack, **parts: torch.Tensor) -> list[int]:
    first = pb.TokenizeRequest(parameters=pb.TokenizeParameters())
    responses = call(
        stack, "Tokenize", [first, *(pb.TokenizeRequest(tensor=chunk) for chunk in chunks(**parts))]
    )
    events = [response.WhichOneof("event") for response in responses]
    assert events[-3:] == ["started", "codes", "report"]
    assert responses[-1].report.planned_bytes > 0
    return list(responses[-2].codes.codes)


def test_source_latents_and_a_window(turbo_stack: RunningStack) -> None:
    source = latents(FRAMES)
    window = {"window_start_frame": 10, "window_stop_frame": 40, "silence_window": True}
    found = encode(turbo_stack, {"source_latents": source}, **window)
    sent_back, mask = found["context_latents"].chunk(2, dim=-1)
    assert mask[0, :, 0].tolist() == [0.0] * 10 + [1.0] * 30 + [0.0] * 20
    assert torch.equal(sent_back[:, :10], source[:, :10])
    assert torch.equal(sent_back[:, 40:], source[:, 40:])
    silence = encode(turbo_stack)["context_latents"][..., :CHANNELS]
    assert torch.equal(sent_back[:, 10:40], silence[:, 10:40])


def test_codes_of_a_song_give_what_the_song_gives_through_codes(turbo_stack: RunningStack) -> None:
    source = latents(FRAMES)
    codes = tokenize(turbo_stack, source_latents=source)
    assert len(codes) == FRAMES / 5
    through = encode(turbo_stack, {"source_latents": source}, through_codes=True)["context_latents"]
    from_codes = encode(turbo_stack, audio_codes=codes)["context_latents"]
    assert (through - from_codes).abs().max() < 1e-5
    assert (through[..., :CHANNELS] - source).abs().max() > 0.01


def test_a_reference_changes_the_timbre_alone(turbo_stack: RunningStack) -> None:
    plain = encode(turbo_stack)
    found = encode(turbo_stack, {"reference_latents": latents(250)})
    differs = (found["encoder_hidden_states"] - plain["encoder_hidden_states"]).abs().amax(dim=-1)[0]
    assert (differs > 1e-4).sum() == 1, "one token stands for the timbre"
    assert torch.equal(found["context_latents"], plain["context_latents"])


def test_plain_states_are_those_of_the_text_to_music_task(turbo_stack: RunningStack) -> None:
    found = encode(turbo_stack, instruction="Hum", with_plain=True)
    plain = encode(turbo_stack)
    assert "plain_hidden_states" not in plain
    assert (found["plain_hidden_states"] - plain["encoder_hidden_states"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("parts", "changes", "field"),
    [
        ({"source_latents": latents(FRAMES + 1)}, {}, "parameters.frame_count"),
        ({"source_latents": torch.zeros(1, FRAMES, 9)}, {}, "tensor.source_latents.shape"),
        ({"source_latents": torch.full((1, FRAMES, CHANNELS), torch.nan)}, {}, "tensor.source_latents"),
        ({"reference_latents": latents(751)}, {}, "tensor.reference_latents.shape"),
        ({"latents": latents(FRAMES)}, {}, "tensor.latents"),
        ({}, {"audio_codes": [64_000] * 12}, "parameters.audio_codes"),
        ({"source_latents": latents(FRAMES)}, {"audio_codes": [1] * 12}, "parameters.audio_codes"),
        ({}, {"audio_codes": [1] * 11}, "parameters.frame_count"),
        ({}, {"through_codes": True}, "parameters.through_codes"),
        ({}, {"window_start_frame": FRAMES}, "parameters.window_start_frame"),
        ({}, {"window_start_frame": 9, "window_stop_frame": 9}, "parameters.window_stop_frame"),
    ],
)
def test_what_is_wrong_with_a_source_is_named(
    turbo_stack: RunningStack, parts: dict[str, torch.Tensor], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encode(turbo_stack, parts, **changes)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({}, "tensor.source_latents"),
        ({"reference_latents": latents(10)}, "tensor.reference_latents"),
        ({"source_latents": torch.zeros(1, 15_001, CHANNELS)}, "tensor.source_latents.shape"),
        ({"source_latents": torch.full((1, 7, CHANNELS), torch.inf)}, "tensor.source_latents"),
    ],
)
def test_what_is_wrong_with_latents_for_codes_is_named(
    turbo_stack: RunningStack, parts: dict[str, torch.Tensor], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        tokenize(turbo_stack, **parts)
    assert [violation.field for violation in caught.value.violations] == [field]
