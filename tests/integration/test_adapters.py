"""Adapters over gRPC, straight to the DiT: switched in a warm worker, and refused without harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch

from acestage import tensors
from acestage.adapters import AdapterFolder
from acestage.errors import InvalidArgumentError
from acestage.protos.dit.v1 import dit_pb2, dit_pb2_grpc
from acestage.protos.stage.v1 import stage_pb2
from acestage.rpc_errors import from_rpc_error
from acestage.tensors import TensorDecoder, WireTensor
from scripts.random_adapter import write_adapter
from tests.running_stack import RunningStack

FRAMES, WIDTH, CHANNELS = 30, 64, 8


@dataclass
class Denoised:
    latents: torch.Tensor
    started: stage_pb2.StageStarted
    worker_pid: int


@pytest.fixture(scope="module")
def folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    write_adapter(path / "rain", checkpoints["turbo/diffusers"], seed=1)
    write_adapter(path / "snow.safetensors", checkpoints["turbo/diffusers"], file_format="diffusers", seed=2)
    write_adapter(path / "wide.safetensors", checkpoints["xl/diffusers"], file_format="diffusers")
    (path / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    return path


@pytest.fixture(scope="module")
def stack(
    checkpoints: dict[str, Path], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    with RunningStack.start(
        checkpoints["turbo/diffusers"],
        tmp_path_factory.mktemp("adapters-stack"),
        ACESTAGE_ADAPTERS_DIR=str(folder),
    ) as stack:
        yield stack


def denoise(stack: RunningStack, *adapters: dit_pb2.Adapter) -> Denoised:
    generator = torch.Generator().manual_seed(1)
    parts = {
        "encoder_hidden_states": torch.randn(1, 12, WIDTH, generator=generator),
        "null_condition": torch.randn(1, 1, WIDTH, generator=generator),
        "context_latents": torch.randn(1, FRAMES, 2 * CHANNELS, generator=generator),
    }
    parameters = dit_pb2.DenoiseParameters(
        seeds=[1], step_count=2, shift=3.0, guidance_scale=1.0, cfg_interval_end=1.0, adapters=adapters
    )
    requests = [dit_pb2.DenoiseRequest(parameters=parameters)]
    for name, tensor in parts.items():
        chunks = tensors.encode(WireTensor.from_torch(name, tensor))
        requests += [dit_pb2.DenoiseRequest(tensor=chunk) for chunk in chunks]
    decoder, started, report = TensorDecoder(["latents"]), None, None
    with grpc.insecure_channel(stack.address("dit")) as channel:
        try:
            for response in dit_pb2_grpc.DitServiceStub(channel).Denoise(iter(requests), timeout=60):
                match response.WhichOneof("event"):
                    case "started":
                        started = response.started
                    case "tensor":
                        decoder.feed(response.tensor)
                    case "report":
                        report = response.report
        except grpc.RpcError as error:
            raise from_rpc_error(error, target="dit") from error
    assert started is not None
    assert report is not None
    (worker,) = (process for process in report.processes if process.name == "dit/worker")
    return Denoised(decoder.finish()["latents"].to_torch(), started, worker.pid)


def adapter(name: str, scale: float = 1.0) -> dit_pb2.Adapter:
    return dit_pb2.Adapter(name=name, scale=scale)


def test_adapters_are_switched_in_a_warm_worker(stack: RunningStack, folder: Path) -> None:
    plain = denoise(stack)
    rain = denoise(stack, adapter("rain"))
    both = denoise(stack, adapter("rain"), adapter("snow", 0.5))
    for changed, other in ((rain, plain), (both, plain), (both, rain)):
        assert not torch.allclose(changed.latents, other.latents, atol=1e-2)
    assert torch.equal(denoise(stack, adapter("rain")).latents, rain.latents)
    again = denoise(stack)
    assert torch.equal(again.latents, plain.latents)
    assert torch.equal(denoise(stack, adapter("rain", 0.0)).latents, plain.latents)
    for done in (rain, both, again):
        assert done.started.was_warm
        assert done.worker_pid == plain.worker_pid
    count = AdapterFolder(folder).open("rain").parameter_count
    passing_bytes = rain.started.vram_bytes - plain.started.vram_bytes - 4 * count
    assert 0 < passing_bytes < 64 * 1024  # what a pass has of the adapter's results beside the layers'


def test_an_adapter_that_was_changed_is_read_anew(
    stack: RunningStack, folder: Path, checkpoints: dict[str, Path]
) -> None:
    path = folder / "edited"
    write_adapter(path, checkpoints["turbo/diffusers"], seed=3)
    before = denoise(stack, adapter("edited"))
    write_adapter(path, checkpoints["turbo/diffusers"], seed=4)
    after = denoise(stack, adapter("edited"))
    assert not torch.allclose(after.latents, before.latents, atol=1e-2)
    assert after.worker_pid == before.worker_pid


@pytest.mark.parametrize(
    ("wanted", "field", "words"),
    [
        (adapter("fog"), "name", "accepted: .*rain, snow"),
        (adapter("../rain"), "name", "accepted: .*rain, snow"),
        (adapter("snow", float("inf")), "scale", "accepted: -4 to 4"),
        (adapter("broken"), "name", "not a safetensors file"),
        (adapter("wide"), "name", "accepted: 64 and"),
    ],
)
def test_what_cannot_be_used_is_named_and_does_no_harm(
    stack: RunningStack, wanted: dit_pb2.Adapter, field: str, words: str
) -> None:
    before = denoise(stack, adapter("rain"))
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        denoise(stack, adapter("rain", 0.5), wanted)
    assert caught.value.violations[-1].field == f"parameters.adapters[1].{field}"
    after = denoise(stack, adapter("rain"))
    assert torch.equal(after.latents, before.latents)
    assert after.worker_pid == before.worker_pid


def test_the_command_line_lists_them(folder: Path) -> None:
    def acestage(*arguments: str) -> str:
        command = [sys.executable, "-m", "acestage", "adapters", *arguments]
        variables = os.environ | {"ACESTAGE_ADAPTERS_DIR": str(folder), "COLUMNS": "200"}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    listed = {one["name"]: one for one in json.loads(acestage("--json"))["adapters"]}
    assert (listed["rain"]["ranks"], listed["rain"]["layer_count"], listed["rain"]["problem"]) == (
        [8],
        32,
        None,
    )
    assert not listed["broken"]["is_usable"]
    assert "not a safetensors file" in listed["broken"]["problem"]
    table = acestage()
    assert "rain" in table
    assert "not usable" in table
    assert "No adapters in" in acestage("--adapters-dir", str(folder / "rain" / "nothing"))
