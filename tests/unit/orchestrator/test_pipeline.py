"""How long a job waits for its stages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

import pytest

from acestage.errors import CheckpointError, DeadlineExceededError, ServiceUnreachableError
from acestage.generation import STAGES
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.settings import Settings
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.song.source_latents import HeldAudio
from services.orchestrator.stage_clients import INFO_TIMEOUT_S, RESTART_TIMEOUT_S, Deadline, StageClient
from services.orchestrator.uploads.audio_store import AudioStore
from tests.unit.job_events import run
from tests.unit.orchestrator.unreached import UNREACHED


class AbsentStage(StageClient):
    """Notes how long it is waited for."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage, "nowhere:1", UNREACHED)
        self.waits_s: list[float] = []

    async def info(
        self, timeout_s: float = INFO_TIMEOUT_S, *, with_memory: bool = False
    ) -> stage_pb2.GetStageInfoResponse:
        self.waits_s.append(timeout_s)
        raise ServiceUnreachableError(f"{self.stage} is away")


def pipeline_of(stages: Iterable[StageClient]) -> Pipeline:
    return Pipeline(*cast(Any, tuple(stages)), cast(AudioStore, None), Settings())


async def wait_of(ask: Callable[[Pipeline], Coroutine[Any, Any, object]]) -> float:
    """How long `ask` has the pipeline wait for its stages, which are all away."""
    stages = [AbsentStage(stage) for stage in STAGES]
    pipeline = pipeline_of(stages)
    with pytest.raises(ServiceUnreachableError):
        await ask(pipeline)
    (wait_s,) = {wait_s for stage in stages for wait_s in stage.waits_s}
    return wait_s


SONG = pb.GenerateRequest(caption="piano", duration_s=10)
CODES = pb.GetAudioCodesRequest(source_id="a")


def test_a_job_whose_turn_has_come_waits_for_stages_that_are_started_again() -> None:
    async def scenario() -> None:
        never = Deadline.after(None)
        song_s = await wait_of(lambda one: one.run(SONG, HeldAudio(), lambda event: None, never))
        codes_s = await wait_of(lambda one: one.audio_codes(CODES, HeldAudio(), never))
        assert song_s == codes_s == RESTART_TIMEOUT_S

    run(scenario())


def test_it_waits_no_longer_than_its_caller() -> None:
    async def scenario() -> None:
        soon = Deadline.after(5.0)
        waited_s = await wait_of(lambda one: one.run(SONG, HeldAudio(), lambda event: None, soon))
        assert 0.0 < waited_s <= 5.0

    run(scenario())


def test_a_job_whose_own_time_is_over_as_it_waits_for_a_stage_says_so() -> None:
    async def scenario() -> None:
        over = Deadline.after(0.0)
        pipeline = pipeline_of(AbsentStage(stage) for stage in STAGES)
        for job in (
            pipeline.run(SONG, HeldAudio(), lambda event: None, over),
            pipeline.audio_codes(CODES, HeldAudio(), over),
        ):
            with pytest.raises(DeadlineExceededError, match=r"the time of the job was over: .* is away"):
                await job

    run(scenario())


class RefusingStage(AbsentStage):
    """Refuses to say what it is."""

    async def info(
        self, timeout_s: float = INFO_TIMEOUT_S, *, with_memory: bool = False
    ) -> stage_pb2.GetStageInfoResponse:
        raise CheckpointError(f"{self.stage} is damaged")


class PatientStage(AbsentStage):
    """Is waited for without end, and notes when nobody waits any more."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.was_left = False

    async def info(
        self, timeout_s: float = INFO_TIMEOUT_S, *, with_memory: bool = False
    ) -> stage_pb2.GetStageInfoResponse:
        try:
            await asyncio.Event().wait()
        finally:
            self.was_left = True
        raise AssertionError


def test_once_a_stage_refuses_nobody_waits_for_the_others() -> None:
    async def scenario() -> None:
        waiting = [PatientStage(stage) for stage in STAGES[1:]]
        pipeline = pipeline_of([RefusingStage(STAGES[0]), *waiting])
        with pytest.raises(CheckpointError, match="is damaged"):
            await pipeline.run(SONG, HeldAudio(), lambda event: None, Deadline.after(None))
        assert all(stage.was_left for stage in waiting)

    run(scenario())


def test_what_is_not_in_the_queue_yet_does_not_wait_for_so_long() -> None:
    async def scenario() -> None:
        assert await wait_of(lambda one: one.check_codes(CODES)) == INFO_TIMEOUT_S

    run(scenario())
