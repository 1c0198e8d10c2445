"""Limits follow the stages; one that does not answer counts as it last did."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from acestage.cli.flags import load_settings
from acestage.errors import AcestageError, InvalidArgumentError, ServiceUnreachableError
from acestage.generation import STAGES
from acestage.limits import Limits
from acestage.planning import GIB, MIB, ActivationCurve, StageMemory
from acestage.protos.stage.v1 import stage_pb2
from services.orchestrator.limits.current_limits import CurrentLimits
from services.orchestrator.stage_clients import StageClient

MEMORY = StageMemory(
    context_bytes=0,
    reserve_bytes=0,
    weights_bytes={"none": GIB},
    # 1 MiB for each second of 25 frames.
    activations={("single", "none"): ActivationCurve(((25, MIB), (15_000, 600 * MIB)))},
)


def info(stage: str, room_mib: int) -> stage_pb2.GetStageInfoResponse:
    """What a stage says; only the DiT says what it needs, and has `room_mib` left beside its weights."""
    model = stage_pb2.Model(name="turbo", latent_frame_rate_hz=25)
    found = stage_pb2.GetStageInfoResponse(
        stage=stage, device="cuda:0", models=[stage_pb2.StageModel(model=model)]
    )
    if stage == "dit":
        found.models[0].memory.CopyFrom(MEMORY.to_pb())
        found.device_bytes = GIB + room_mib * MIB
    return found


class FakeStage(StageClient):
    """Says what it is told to, or raises it."""

    def __init__(self, stage: str, channel: grpc.aio.Channel) -> None:
        super().__init__(stage, "nowhere:1", channel)
        self.answer: stage_pb2.GetStageInfoResponse | Exception = info(stage, room_mib=120)

    async def info(self, timeout_s: float = 0.0) -> stage_pb2.GetStageInfoResponse:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def _no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ACESTAGE_", "ACESTEP_", "MAX_CUDA_VRAM")):
            monkeypatch.delenv(name)


class Scene:
    """Three stages of which each can fail, and their limits."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stages = {name: FakeStage(name, channel) for name in STAGES}
        self.limits = CurrentLimits(list(self.stages.values()), load_settings())


def longest_s(limits: Limits) -> tuple[float, str]:
    return limits.max_duration_s.value, limits.max_duration_s.source.partition(" on ")[0]


def gone(stage: str) -> ServiceUnreachableError:
    return ServiceUnreachableError(f"{stage} does not answer")


def test_limits_follow_what_the_stages_say() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("nowhere:1") as channel:
            scene = Scene(channel)
            assert scene.limits.devices() == set()
            assert longest_s(await scene.limits.ask(1, "")) == (120, "planner: dit")
            assert scene.limits.devices() == {"cuda:0"}
            scene.stages["dit"].answer = info("dit", room_mib=200)
            assert longest_s(await scene.limits.ask_known("")) == (200, "planner: dit")
            scene.limits.note(info(stage, room_mib=300) for stage in STAGES)
            after = scene.limits.known(1, "")
            assert longest_s(after) == (300, "planner: dit")

    asyncio.run(scenario())


def test_limits_are_those_of_the_model() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("nowhere:1") as channel:
            scene = Scene(channel)
            for name, stage in scene.stages.items():
                answer = info(name, room_mib=120)
                large = stage_pb2.StageModel(model=stage_pb2.Model(name="large", latent_frame_rate_hz=25))
                if name == "dit":
                    memory = replace(MEMORY, weights_bytes={"none": GIB + 50 * MIB})
                    large.memory.CopyFrom(memory.to_pb())
                answer.models.append(large)
                stage.answer = answer
            assert (await scene.limits.ask(1, "turbo")).model == "turbo"
            assert longest_s(await scene.limits.ask(1, "")) == (120, "planner: dit")
            assert longest_s(await scene.limits.ask_known("large")) == (70, "planner: dit")
            with pytest.raises(InvalidArgumentError, match="'x'; accepted: turbo, large"):
                await scene.limits.ask(1, "x")

    asyncio.run(scenario())


def test_who_watches_the_devices_hears_of_each_change_once() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("nowhere:1") as channel:
            scene = Scene(channel)
            heard: list[frozenset[str]] = []
            scene.limits.watch_devices(lambda: heard.append(scene.limits.devices()))
            await scene.limits.ask(1, "")
            await scene.limits.ask(1, "")
            assert heard == [{"cuda:0"}]
            moved = info("vae", room_mib=120)
            moved.device = "cuda:1"
            scene.stages["vae"].answer = moved
            await scene.limits.ask(1, "")
            await scene.limits.ask(1, "")
            assert heard == [{"cuda:0"}, {"cuda:0", "cuda:1"}]

    asyncio.run(scenario())


def test_a_stage_that_is_gone_counts_as_it_last_did() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("nowhere:1") as channel:
            scene = Scene(channel)
            await scene.limits.ask(1, "")
            scene.stages["dit"].answer = gone("dit")
            assert longest_s(await scene.limits.ask(1, "")) == (120, "planner: dit")
            assert longest_s(await scene.limits.ask_known("")) == (120, "planner: dit")

    asyncio.run(scenario())


def test_a_stage_that_never_answered_sets_no_limit_and_is_named_to_who_asks_for_limits() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("nowhere:1") as channel:
            scene = Scene(channel)
            scene.stages["dit"].answer = gone("dit")
            assert longest_s(await scene.limits.ask(1, "")) == (600, "the model")
            with pytest.raises(AcestageError, match="dit does not answer"):
                await scene.limits.ask_known("")

    asyncio.run(scenario())


def test_a_defect_is_not_taken_for_a_stage_that_is_gone() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("nowhere:1") as channel:
            scene = Scene(channel)
            scene.stages["vae"].answer = ZeroDivisionError()
            with pytest.raises(ZeroDivisionError):
                await scene.limits.ask(1, "")

    asyncio.run(scenario())
