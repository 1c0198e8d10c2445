"""One set of limits at every front door: refused with the same words, lowered to the same values."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from acestage import AsyncClient, Clamped, Generation, Limit, Limits
from acestage.errors import InvalidArgumentError
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.generation.v1 import generation_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from services.runtime.preload.environment import CONVOLUTION_CACHE_COUNT
from tests.command_line import acestage
from tests.running_stack import RunningStack

LONGEST, MOST = Limit(20, "ACESTEP_MAX_DURATION"), Limit(1, "ACESTEP_MAX_BATCH_SIZE")
CLAMPED = (Clamped("duration_s", 200, LONGEST), Clamped("batch_size", 5, MOST))
TOO_MUCH = {"duration_s": 200, "batch_size": 5}
REFUSED = (
    "duration_s: is 200; accepted: 10 to 20 (ACESTEP_MAX_DURATION)",
    "batch_size: is 5; accepted: 1 (ACESTEP_MAX_BATCH_SIZE)",
)
ALLOCATOR = "max_split_size_mb:128"
ENV_FILE = f"""
ACESTEP_MAX_DURATION=20
ACESTEP_MAX_BATCH_SIZE=1
ACESTEP_INIT_LLM=false
MAX_CUDA_VRAM=7
PYTORCH_CUDA_ALLOC_CONF={ALLOCATOR}
"""


@pytest.fixture(scope="module")
def capped_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`acestage up` with limits from a file that stands in for `.env`."""
    folder = tmp_path_factory.mktemp("capped-stack")
    env_file = folder / "small.env"
    env_file.write_text(ENV_FILE)
    flags = ("--limits=tier", f"--env-file={env_file}")
    with RunningStack.start("tiny-turbo", folder, flags=flags) as stack:
        yield stack


Door = Callable[[RunningStack, dict[str, Any]], Any]
"""Asks for a song of one step with options; returns what was lowered, its settings, and the takes."""


def told(generation: Generation) -> tuple[object, ...]:
    settings = generation.settings
    return generation.clamped, settings.duration_s, settings.batch_size, len(generation.tracks)


def by_grpc(stack: RunningStack, options: dict[str, Any]) -> Any:
    request = pb.GenerateRequest(caption="piano", step_count=1, **options)
    with grpc.insecure_channel(stack.target) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        try:
            *_, last = stub.Generate(request, timeout=60)
        except grpc.RpcError as error:
            raise from_rpc_error(error, target="orchestrator") from error
    done = last.completed
    clamped = tuple(Clamped.from_pb(item) for item in done.clamped)
    return clamped, done.settings.duration_s, done.settings.batch_size, len(done.tracks)


def by_client(stack: RunningStack, options: dict[str, Any]) -> Any:
    with stack.client() as client:
        return told(client.generate("piano", step_count=1, timeout_s=60, **options))


def by_asyncio(stack: RunningStack, options: dict[str, Any]) -> Any:
    async def scenario() -> Generation:
        async with AsyncClient(stack.target) as client:
            return await client.generate("piano", step_count=1, timeout_s=60, **options)

    return told(asyncio.run(scenario()))


DOORS = [by_grpc, by_client, by_asyncio]


def generate(stack: RunningStack, cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    too_much = ("--duration", "200", "--batch", "5", "--steps", "1", "--target", stack.target)
    return acestage("generate", "piano", *too_much, *flags, cwd=cwd)


@pytest.mark.parametrize("ask", DOORS)
def test_what_is_above_a_limit_is_refused(capped_stack: RunningStack, ask: Door) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        ask(capped_stack, TOO_MUCH)
    assert tuple(f"{v.field}: {v.description}" for v in caught.value.violations) == REFUSED


def test_what_is_refused_never_enters_the_queue(capped_stack: RunningStack) -> None:
    with grpc.insecure_channel(capped_stack.target) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        responses = stub.Generate(pb.GenerateRequest(caption="piano", duration_s=21), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            next(responses)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_above_a_limit_is_refused_by_the_command(capped_stack: RunningStack, tmp_path: Path) -> None:
    ended = generate(capped_stack, tmp_path)
    assert ended.returncode == 1
    for line in REFUSED:
        assert line in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ask", DOORS)
def test_what_is_above_a_limit_is_lowered_where_the_request_allows_it(
    capped_stack: RunningStack, ask: Door
) -> None:
    assert ask(capped_stack, TOO_MUCH | {"clamp": True}) == (CLAMPED, 20.0, 1, 1)


def test_the_command_lowers_and_says_so(capped_stack: RunningStack, tmp_path: Path) -> None:
    ended = generate(capped_stack, tmp_path, "--clamp", "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["settings"]["duration_s"], said["settings"]["batch_size"]) == (20, 1)
    assert said["clamped"] == [
        {
            "field": c.field,
            "requested": c.requested,
            "limit": {"value": c.limit.value, "source": c.limit.source},
        }
        for c in CLAMPED
    ]
    assert "Note: duration_s: 200 was lowered to 20 (ACESTEP_MAX_DURATION)" in ended.stderr
    assert "Note: batch_size: 5 was lowered to 1 (ACESTEP_MAX_BATCH_SIZE)" in ended.stderr
    assert len(list(tmp_path.glob("*.wav"))) == 1


def test_a_song_without_a_duration_is_as_long_as_allowed(capped_stack: RunningStack) -> None:
    assert by_client(capped_stack, {}) == ((), 20.0, 1, 1)


@pytest.mark.parametrize("duration_s", [float("nan"), -5.0])
def test_clamping_mends_no_other_value(capped_stack: RunningStack, duration_s: float) -> None:
    with pytest.raises(InvalidArgumentError, match="duration_s"):
        by_grpc(capped_stack, {"duration_s": duration_s, "clamp": True})


def test_limits_are_the_same_for_every_client(capped_stack: RunningStack, tmp_path: Path) -> None:
    async def ask() -> Limits:
        async with AsyncClient(capped_stack.target) as client:
            return await client.limits()

    with capped_stack.client() as client:
        found = client.limits()
    assert (found.max_duration_s, found.max_batch_size) == (LONGEST, MOST)
    assert (found.device, found.basis, found.tier) == ("cpu", "tier", "tier 3 (6 to 8 GB)")
    assert found.device_bytes == 7 << 30
    assert [(model.is_allowed, model.source) for model in found.language_models] == [
        (False, "ACESTEP_INIT_LLM")
    ] * 3
    assert asyncio.run(ask()) == found

    ended = acestage("limits", "--target", capped_stack.target, "--json", cwd=tmp_path)
    assert json.loads(ended.stdout) == json.loads(json.dumps(found.to_dict()))
    shown = acestage("limits", "--target", capped_stack.target, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    words = ("20 s", LONGEST.source, MOST.source, "4B", "ACESTEP_INIT_LLM", "7.0 GiB", "tier 3 (6 to 8 GB)")
    for word in (*words, "language models (none is served yet)"):
        assert word in shown.stdout


@pytest.mark.parametrize("stage", ["text_encoder", "dit", "vae"])
def test_the_allocator_of_the_file_reaches_the_process_whose_workers_use_it(
    capped_stack: RunningStack, stage: str
) -> None:
    preload = capped_stack.preload(stage)
    assert preload.environ()["PYTORCH_CUDA_ALLOC_CONF"] == ALLOCATOR


def test_workers_keep_few_compiled_convolutions_lest_every_length_of_a_song_adds_some(
    capped_stack: RunningStack,
) -> None:
    preload = capped_stack.preload("vae")
    assert preload.environ()["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(CONVOLUTION_CACHE_COUNT)


def test_services_that_run_keep_their_limits(capped_stack: RunningStack, tmp_path: Path) -> None:
    ended = generate(capped_stack, tmp_path, "--limits", "planner")
    assert ended.returncode == 1
    assert "--limits: services already run" in ended.stderr


def test_limits_without_services_say_where_they_were_sought(tmp_path: Path) -> None:
    ended = acestage("limits", "--target", "127.0.0.1:1", cwd=tmp_path)
    assert ended.returncode == 1
    assert "127.0.0.1:1 does not answer" in ended.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = acestage("up", "--env-file", "no-such.env", cwd=tmp_path)
    assert ended.returncode == 2
    assert "no-such.env" in ended.stderr
    assert "Traceback" not in ended.stderr
