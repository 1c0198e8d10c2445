"""How long a job waits for its stages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from acestage.errors import ServiceUnreachableError
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


async def wait_of(ask: Callable[[Pipeline], Coroutine[Any, Any, object]]) -> float:
    """How long `ask` has the pipeline wait for its stages, which are all away."""
    stages = [AbsentStage(stage) for stage in STAGES]
    pipeline = Pipeline(*cast(Any, stages), cast(AudioStore, None), Settings())
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


def test_what_is_not_in_the_queue_yet_does_not_wait_for_so_long() -> None:
    async def scenario() -> None:
        assert await wait_of(lambda one: one.check_codes(CODES)) == INFO_TIMEOUT_S

    run(scenario())
