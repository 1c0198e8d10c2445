"""Bad requests get the documented status with the field named, and the services live on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import torch

from acestage import Client, tensors
from acestage.errors import (
    FieldViolation,
    InvalidArgumentError,
    ServiceUnreachableError,
    TensorCorruptError,
)
from acestage.protos.dit.v1 import dit_pb2, dit_pb2_grpc
from acestage.protos.text_encoder.v1 import text_encoder_pb2, text_encoder_pb2_grpc
from acestage.protos.vae.v1 import vae_pb2, vae_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from acestage.tensors import WireTensor
from tests.running_stack import RunningStack, wait_until

NAN = float("nan")
WIDTH, CHANNELS, FRAMES = 64, 8, 30


@pytest.fixture(autouse=True)
def _services_live_on(turbo_stack: RunningStack) -> Iterator[None]:
    """After each test nothing is held, nothing runs, and all stages serve."""
    yield
    wait_until(turbo_stack.is_idle, "nothing runs", timeout_s=10.0)
    assert turbo_stack.is_serving()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("caption", {"caption": ""}),
        ("duration_s", {"duration_s": 0}),
        ("duration_s", {"duration_s": 1e9}),
        ("duration_s", {"duration_s": NAN}),
        ("step_count", {"step_count": -8}),
        ("language", {"language": "xx"}),
        ("key_scale", {"key_scale": "H dur"}),
        ("lyrics", {"lyrics": "a" * 1_000_000}),
        ("batch_size", {"batch_size": 100}),
        ("timesteps", {"timesteps": [0.1, 0.9]}),
    ],
)
def test_generate_names_the_field(turbo_stack: RunningStack, field: str, options: dict[str, Any]) -> None:
    with turbo_stack.client() as client, pytest.raises(InvalidArgumentError) as caught:
        client.generate(**{"caption": "piano"} | options)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert "accepted" in caught.value.violations[0].description or field == "caption"


def conditioning(**changes: torch.Tensor) -> list[WireTensor]:
    parts = {
        "encoder_hidden_states": torch.randn(1, 12, WIDTH),
        "null_condition": torch.randn(1, 1, WIDTH),
        "context_latents": torch.randn(1, FRAMES, 2 * CHANNELS),
    } | changes
    return [WireTensor.from_torch(name, tensor) for name, tensor in parts.items()]


def chunks_of(parts: list[WireTensor]) -> Iterator[tensors.pb.TensorChunk]:
    for part in parts:
        yield from tensors.encode(part)


def denoise(
    stack: RunningStack,
    parts: Iterator[tensors.pb.TensorChunk],
    parameters: dit_pb2.DenoiseParameters | None = None,
) -> list[dit_pb2.DenoiseResponse]:
    parameters = parameters or denoise_parameters()
    first = dit_pb2.DenoiseRequest(parameters=parameters)
    requests = iter([first, *(dit_pb2.DenoiseRequest(tensor=chunk) for chunk in parts)])
    with grpc.insecure_channel(stack.address("dit")) as channel:
        try:
            return list(dit_pb2_grpc.DitServiceStub(channel).Denoise(requests, timeout=60))
        except grpc.RpcError as error:
            raise from_rpc_error(error, target="dit") from error


def denoise_parameters(**changes: Any) -> dit_pb2.DenoiseParameters:
    fields = {"seeds": [1], "step_count": 2, "shift": 3.0, "guidance_scale": 1.0, "cfg_interval_end": 1.0}
    return dit_pb2.DenoiseParameters(**fields | changes)


def test_a_stage_can_be_called_by_itself(turbo_stack: RunningStack) -> None:
    responses = denoise(turbo_stack, chunks_of(conditioning()))
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds[-3:] == ["tensor", "tensor", "report"]
    assert kinds.count("step") == 2


@pytest.mark.parametrize(
    ("name", "tensor", "field"),
    [
        ("encoder_hidden_states", torch.randn(1, 12, WIDTH + 1), "tensor.encoder_hidden_states.shape"),
        ("encoder_hidden_states", torch.randn(2, 12, WIDTH), "tensor.encoder_hidden_states.shape"),
        ("null_condition", torch.randn(1, 2, WIDTH), "tensor.null_condition.shape"),
        ("context_latents", torch.randn(1, FRAMES, CHANNELS), "tensor.context_latents.shape"),
        (
            "context_latents",
            torch.ones(1, FRAMES, 2 * CHANNELS, dtype=torch.int64),
            "tensor.context_latents.data_type",
        ),
        ("encoder_hidden_states", torch.zeros(1, 4_097, WIDTH), "tensor.encoder_hidden_states.shape"),
        ("context_latents", torch.zeros(1, 15_001, 2 * CHANNELS), "tensor.context_latents.shape"),
        ("surprise", torch.randn(1), "tensor.surprise"),
        pytest.param("x" * (1 << 20), torch.randn(1), "tensor.spec.name", id="name-of-1-MiB"),
    ],
)
def test_a_wrong_tensor_is_named(
    turbo_stack: RunningStack, name: str, tensor: torch.Tensor, field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        denoise(turbo_stack, chunks_of(conditioning(**{name: tensor})))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_missing_tensor_is_named(turbo_stack: RunningStack) -> None:
    with pytest.raises(InvalidArgumentError, match=r"tensor\.null_condition: is missing"):
        denoise(turbo_stack, chunks_of([p for p in conditioning() if p.name != "null_condition"]))


def test_a_corrupt_tensor_is_data_loss(turbo_stack: RunningStack) -> None:
    parts = list(chunks_of(conditioning()))
    parts[1].data = bytes([parts[1].data[0] ^ 1]) + parts[1].data[1:]
    with pytest.raises(TensorCorruptError, match="encoder_hidden_states"):
        denoise(turbo_stack, iter(parts))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("seeds", {"seeds": []}),
        ("seeds", {"seeds": range(9)}),
        ("step_count", {"step_count": 0}),
        ("step_count", {"step_count": -1}),
        ("shift", {"shift": 0.0}),
        ("guidance_scale", {"guidance_scale": NAN}),
        ("cfg_interval_end", {"cfg_interval_start": 0.9, "cfg_interval_end": 0.1}),
        ("timesteps", {"timesteps": [0.5, 0.6]}),
        ("timesteps", {"timesteps": [2.0]}),
        ("timesteps", {"timesteps": [0.5, 0.0]}),
    ],
)
def test_wrong_parameters_are_named(turbo_stack: RunningStack, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        denoise(turbo_stack, chunks_of(conditioning()), denoise_parameters(**changes))
    assert [violation.field for violation in caught.value.violations] == [f"parameters.{field}"]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "parameters"),
        ([vae_pb2.DecodeRequest()], "parameters"),
        ([vae_pb2.DecodeRequest(tensor=tensors.pb.TensorChunk(data=b"1234"))], "parameters"),
        ([vae_pb2.DecodeRequest(parameters=vae_pb2.DecodeParameters())] * 2, "parameters"),
        ([vae_pb2.DecodeRequest(parameters=vae_pb2.DecodeParameters()), vae_pb2.DecodeRequest()], "part"),
        ([vae_pb2.DecodeRequest(parameters=vae_pb2.DecodeParameters())], "tensor.latents"),
        (
            [
                vae_pb2.DecodeRequest(parameters=vae_pb2.DecodeParameters(tile_frame_count=-1)),
                *(
                    vae_pb2.DecodeRequest(tensor=chunk)
                    for chunk in tensors.encode(WireTensor.from_torch("latents", torch.zeros(1, 2, CHANNELS)))
                ),
            ],
            "parameters.tile_frame_count",
        ),
    ],
)
def test_a_stream_in_the_wrong_order_is_refused(
    turbo_stack: RunningStack, requests: list[vae_pb2.DecodeRequest], field: str
) -> None:
    assert decode_violations(turbo_stack, requests)[0].field == field


@pytest.mark.parametrize(
    ("shape", "description"),
    [
        ((9, 2, CHANNELS), "has 9 items; accepted: up to 8"),
        ((1, 15_001, CHANNELS), "has 15001 frames; accepted: up to 15000"),
    ],
)
def test_latents_beyond_the_limits_are_refused(
    turbo_stack: RunningStack, shape: tuple[int, ...], description: str
) -> None:
    first = vae_pb2.DecodeRequest(parameters=vae_pb2.DecodeParameters())
    chunks = tensors.encode(WireTensor.from_torch("latents", torch.zeros(shape)))
    requests = [first, *(vae_pb2.DecodeRequest(tensor=chunk) for chunk in chunks)]
    assert decode_violations(turbo_stack, requests) == (FieldViolation("tensor.latents.shape", description),)


def decode_violations(
    stack: RunningStack, requests: list[vae_pb2.DecodeRequest]
) -> tuple[FieldViolation, ...]:
    with grpc.insecure_channel(stack.address("vae")) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(vae_pb2_grpc.VaeServiceStub(channel).Decode(iter(requests), timeout=60))
        error = from_rpc_error(caught.value, target="vae")
    assert isinstance(error, InvalidArgumentError)
    return error.violations


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("parameters.caption", {"caption": " "}),
        ("parameters.lyrics", {"lyrics": "a" * 50_001}),
        ("parameters.instruction", {"instruction": "a" * 1_001}),
        ("parameters.language", {"language": "klingon"}),
        ("parameters.bpm", {"bpm": 0}),
        ("parameters.key_scale", {"key_scale": "H dur"}),
        ("parameters.time_signature", {"time_signature": "5"}),
        ("parameters.frame_count", {"frame_count": 0}),
        ("parameters.frame_count", {"frame_count": 15_001}),
        ("parameters.duration_s", {"duration_s": NAN}),
        ("parameters.duration_s", {"duration_s": 3601}),
    ],
)
def test_a_wrong_prompt_is_named(turbo_stack: RunningStack, field: str, changes: dict[str, Any]) -> None:
    parameters = text_encoder_pb2.EncodeParameters(
        **{"caption": "piano", "frame_count": 250, "duration_s": 10.0} | changes
    )
    request = text_encoder_pb2.EncodeRequest(parameters=parameters)
    with grpc.insecure_channel(turbo_stack.address("text_encoder")) as channel:
        stub = text_encoder_pb2_grpc.TextEncoderServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Encode(iter([request]), timeout=60))
        error = from_rpc_error(caught.value, target="text_encoder")
    assert isinstance(error, InvalidArgumentError)
    assert [violation.field for violation in error.violations] == [field]


def test_good_requests_still_work_after_bad_ones(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        with pytest.raises(InvalidArgumentError):
            client.generate("piano", duration_s=0)
        with pytest.raises(InvalidArgumentError):
            denoise(turbo_stack, chunks_of(conditioning(surprise=torch.randn(1))))
        assert client.generate("piano", duration_s=10, seed=1).tracks


def test_a_target_where_nothing_listens_is_named() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServiceUnreachableError, match="orchestrator at 127"):
        client.generate("piano")
