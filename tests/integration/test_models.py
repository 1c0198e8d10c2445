"""Several checkpoints at once: each request gets the model that it names, and only that one takes memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from acestage import AsyncClient, Generation
from acestage.cli import app
from acestage.errors import InvalidArgumentError
from acestage.generation import StageStarted
from acestage.generation_request import request_to_pb
from acestage.planning import StageMemory
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from tests.chaos.stage_calls import denoise
from tests.in_process import InProcess
from tests.running_stack import RunningStack, wait_until

TURBO, BASE, XL = "turbo-diffusers", "base-diffusers", "acestep-v15-xl-base"
"""Names of the models, the default first. The first two have the same weights but for the DiT."""
MODELS = (TURBO, BASE, XL)
OPTIONS: dict[str, Any] = {"duration_s": 10, "seed": 7, "step_count": 2}


@pytest.fixture(scope="module")
def paths(checkpoints: dict[str, Path]) -> dict[str, Path]:
    found = (checkpoints["turbo/diffusers"], checkpoints["base/diffusers"], checkpoints["xl/original"])
    assert tuple(path.name for path in found) == MODELS
    return dict(zip(MODELS, found, strict=True))


@pytest.fixture(scope="module")
def stack(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    checkpoint = ",".join(map(str, paths.values()))
    folder = tmp_path_factory.mktemp("models-stack")
    with RunningStack.start(checkpoint, folder, ACESTAGE_CONCURRENT_JOBS="3") as running:
        yield running


def info(stack: RunningStack, stage: str) -> stage_pb2.GetStageInfoResponse:
    with grpc.insecure_channel(stack.address(stage)) as channel:
        stub = stage_pb2_grpc.StageServiceStub(channel)
        return stub.GetStageInfo(stage_pb2.GetStageInfoRequest(), timeout=10)


def generate(stack: RunningStack, **options: Any) -> tuple[Generation, dict[str, StageStarted]]:
    started: dict[str, StageStarted] = {}

    def note(event: object) -> None:
        if isinstance(event, StageStarted):
            started[event.stage] = event

    with stack.client() as client:
        generation = client.generate("warm piano", on_event=note, timeout_s=60, **OPTIONS | options)
    return generation, started


def expected(path: Path) -> np.ndarray[Any, Any]:
    return InProcess(path).generate(request_to_pb("warm piano", OPTIONS))  # type: ignore[arg-type]


@pytest.mark.parametrize(("asked", "name"), [(TURBO, TURBO), ("", TURBO), (BASE, BASE), ("xl-base", XL)])
def test_a_request_gets_the_bits_of_its_model_alone(
    stack: RunningStack, paths: dict[str, Path], asked: str, name: str
) -> None:
    generation, _ = generate(stack, model=asked)
    assert generation.settings.model.name == name
    assert np.array_equal(generation.tracks[0].audio, expected(paths[name])[0])


def test_only_the_chosen_model_is_in_the_lease_and_in_the_memory_of_the_worker(
    stack: RunningStack, paths: dict[str, Path]
) -> None:
    weights = {
        TURBO: paths[TURBO] / "transformer" / "diffusion_pytorch_model.safetensors",
        BASE: paths[BASE] / "transformer" / "diffusion_pytorch_model.safetensors",
        XL: paths[XL] / "model.safetensors",
    }
    for name in (XL, BASE, TURBO):
        generate(stack, model=name)
        wait_until(stack.is_idle, "the job is done")
        said = info(stack, "dit")
        memories = {model.model.name: StageMemory.from_pb(model.memory) for model in said.models}
        assert (said.placed_model, tuple(memories)) == (name, MODELS)
        with stack.client() as client:
            leases = {lease.holder.split("@")[0]: lease.vram_bytes for lease in client.status().leases}
        assert leases["dit"] == memories[name].resting_bytes("none")
        resident = {mapped.path: mapped.rss for mapped in stack.worker("dit").memory_maps()}
        assert {model for model, path in weights.items() if resident[str(path)]} == {name}
    assert memories[XL].weights_bytes["none"] > memories[BASE].weights_bytes["none"]


def test_weights_that_models_have_in_common_stay_on_the_device_between_their_jobs(
    stack: RunningStack,
) -> None:
    # Lyrics of its own: with a prompt that was asked for before, there is no text encoder.
    generate(stack, model=TURBO, lyrics="la la la")
    _, started = generate(stack, model=BASE, lyrics="la la la")
    was_warm = {stage: start.was_warm for stage, start in started.items()}
    assert was_warm == {"text_encoder": True, "dit": False, "vae": True}
    _, started = generate(stack, model=XL, lyrics="la la la")
    assert len(started) == 3
    assert not any(start.was_warm for start in started.values())


def test_requests_for_several_models_at_once_get_theirs(stack: RunningStack, paths: dict[str, Path]) -> None:
    async def scenario() -> list[Generation]:
        async with AsyncClient(stack.target) as client:
            jobs = (client.generate("warm piano", **OPTIONS, model=name) for name in (*MODELS, *MODELS))
            return await asyncio.gather(*jobs)

    generations = asyncio.run(asyncio.wait_for(scenario(), 120))
    assert [generation.settings.model.name for generation in generations] == [*MODELS, *MODELS]
    wanted = [expected(path)[0] for path in paths.values()]
    for generation, audio in zip(generations, [*wanted, *wanted], strict=True):
        assert np.array_equal(generation.tracks[0].audio, audio)


def test_an_unknown_model_is_refused_with_those_that_there_are(stack: RunningStack) -> None:
    words = f"model: is 'gpt-9'; accepted: {TURBO}, {BASE}, {XL}"
    with pytest.raises(InvalidArgumentError) as refused:
        generate(stack, model="gpt-9")
    assert refused.value.message == words
    with stack.client() as client, pytest.raises(InvalidArgumentError) as refused:
        client.limits(model="gpt-9")
    assert refused.value.message == words


def test_a_stage_is_asked_for_a_model_directly(stack: RunningStack) -> None:
    address = stack.address("dit")
    heard = {name: asyncio.run(denoise(address, 50, model=name)) for name in ("", *MODELS)}
    assert np.array_equal(heard[""].result, heard[TURBO].result)  # type: ignore[arg-type]
    assert not np.allclose(heard[BASE].result, heard[TURBO].result)  # type: ignore[arg-type]
    assert not np.allclose(heard[BASE].result, heard[XL].result)  # type: ignore[arg-type]
    assert heard[XL].report.planned_bytes != heard[BASE].report.planned_bytes
    with pytest.raises(InvalidArgumentError) as refused:
        asyncio.run(denoise(address, 50, model="gpt-9"))
    assert [violation.field for violation in refused.value.violations] == ["model"]


def test_the_command_line_chooses_and_lists_models(stack: RunningStack, tmp_path: Path) -> None:
    run = CliRunner().invoke
    target = ["--target", stack.target]
    output = tmp_path / "song.wav"
    flags = ["--model", "xl-base", "--duration", "10", "--steps", "1", "-o", str(output), "--json"]
    made = run(app, ["generate", "warm piano", *flags, *target])
    assert json.loads(made.stdout)["settings"]["model"]["name"] == XL
    limits = run(app, ["limits", "--model", BASE, "--json", *target])
    assert json.loads(limits.stdout)["model"] == BASE
    status = json.loads(run(app, ["status", "--json", *target]).stdout)
    for stage in status["stages"]:
        assert [model["name"] for model in stage["models"]] == list(MODELS)
        assert stage["placed_model"] in MODELS
    listed = run(app, ["models", "list", "--checkpoints-dir", str(tmp_path), *target])
    assert f"Served at {stack.target}: {', '.join(MODELS)}" in listed.stdout


def test_flags_that_shape_the_denoising_reach_the_settings(stack: RunningStack, tmp_path: Path) -> None:
    flags = ["--instruction", "Fill the audio:", "--shift", "2.5", "--guidance-scale", "4.5", "--steps", "3"]
    flags += ["--cfg-interval-start", "0.1", "--cfg-interval-end", "0.9"]
    flags += ["--model", BASE, "--duration", "10", "-o", str(tmp_path / "song.wav"), "--json"]
    made = CliRunner().invoke(app, ["generate", "x", *flags, "--target", stack.target])
    settings = json.loads(made.stdout)["settings"]
    assert settings["instruction"] == "Fill the audio:"
    assert (settings["shift"], settings["guidance_scale"], settings["step_count"]) == (2.5, 4.5, 3)
    assert settings["cfg_interval_start"] == pytest.approx(0.1)
    assert settings["cfg_interval_end"] == pytest.approx(0.9)
