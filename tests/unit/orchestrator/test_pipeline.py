"""What a job asks of its stages, and how long it waits for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, cast

import pytest

from acestage.errors import (
    AcestageError,
    CheckpointError,
    DeadlineExceededError,
    InvalidArgumentError,
    ServiceUnreachableError,
)
from acestage.generation import STAGES
from acestage.planning import GIB, MIB, ActivationCurve, StageMemory
from acestage.protos.dit.v1 import dit_pb2
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.protos.vae.v1 import vae_pb2
from acestage.settings import Settings
from acestage.tensors import WireTensor
from services.orchestrator.jobs.job_size import JobSize
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


class DitThatChecks(AbsentStage):
    """Says `error` of all adapters."""

    def __init__(self, error: AcestageError) -> None:
        super().__init__("dit")
        self._error = error

    async def check_adapters(self, adapters: Iterable[dit_pb2.Adapter], timeout_s: float) -> None:
        raise self._error


def check_adapters(error: AcestageError) -> JobSize:
    """Checks a song with an adapter, of which the DiT says `error`."""
    stages = [AbsentStage("text_encoder"), DitThatChecks(error), AbsentStage("vae")]
    adapted = pb.GenerateRequest(caption="piano", duration_s=10, adapters=[dit_pb2.Adapter(name="a")])
    return asyncio.run(pipeline_of(stages).check(adapted))


@pytest.mark.parametrize("error", [ServiceUnreachableError("away"), DeadlineExceededError("silent")])
def test_a_dit_that_is_away_keeps_no_song_with_adapters_out_of_the_queue(error: AcestageError) -> None:
    assert check_adapters(error) == JobSize(10.0, 1)


def test_adapters_that_the_dit_refuses_never_come_into_the_queue() -> None:
    with pytest.raises(InvalidArgumentError, match="is not there"):
        check_adapters(InvalidArgumentError.at("adapters[0].name", "is not there"))


MODEL = stage_pb2.Model(
    name="turbo",
    is_turbo=True,
    latent_channel_count=1,
    latent_frame_rate_hz=25,
    sample_rate_hz=50,
    hop_sample_count=2,
)


class WorkingStage(StageClient):
    """Does the work of any stage and makes zeros.

    Attributes:
        facts: what it says of itself.
        was_preview: of each of its works, whether it was for a preview.
    """

    def __init__(self, stage: str) -> None:
        super().__init__(stage, "nowhere:1", UNREACHED)
        hosted = stage_pb2.StageModel(model=MODEL, dtype="float32")
        self.facts = stage_pb2.GetStageInfoResponse(stage=stage, device="cuda:0", models=[hosted])
        self.was_preview: list[bool] = []

    async def info(
        self, timeout_s: float = INFO_TIMEOUT_S, *, with_memory: bool = False
    ) -> stage_pb2.GetStageInfoResponse:
        return self.facts

    async def encode(
        self, parameters: text_encoder_pb2.EncodeParameters, *_: object
    ) -> dict[str, WireTensor]:
        names = ("encoder_hidden_states", "null_condition", "context_latents")
        return {name: zeros(name, 1, parameters.frame_count, 2) for name in names}

    async def denoise(
        self, parameters: object, inputs: object, shape: tuple[int, ...], *_: object, is_preview: bool = False
    ) -> WireTensor:
        self.was_preview.append(is_preview)
        return zeros("latents", *shape)

    async def decode(
        self, parameters: object, latents: WireTensor, deadline: Deadline, *, is_preview: bool = False
    ) -> AsyncGenerator[vae_pb2.DecodeResponse, None]:
        self.was_preview.append(is_preview)
        samples = bytes(latents.shape[1] * MODEL.hop_sample_count * 8)
        audio = vae_pb2.AudioChunk(samples=samples, channel_count=2, sample_rate_hz=MODEL.sample_rate_hz)
        yield vae_pb2.DecodeResponse(audio=audio)


def zeros(name: str, *shape: int) -> WireTensor:
    return WireTensor(name, "float32", shape, bytes(4 * math.prod(shape)))


def test_a_preview_goes_beside_songs_and_the_song_does_not() -> None:
    async def scenario() -> None:
        text_encoder, dit, vae = map(WorkingStage, STAGES)
        request = pb.GenerateRequest(caption="piano", duration_s=10, preview=True)
        pipeline = pipeline_of([text_encoder, dit, vae])
        await pipeline.run(request, HeldAudio(), lambda event: None, Deadline.after(None))
        assert dit.was_preview == vae.was_preview == [True, False]

    run(scenario())


def test_a_song_may_be_as_long_as_fits_for_all_its_takes() -> None:
    async def scenario() -> None:
        text_encoder, dit, vae = map(WorkingStage, STAGES)
        curve = ActivationCurve(((25, MIB), (250, 10 * MIB)))  # 1 MiB a second
        memory = StageMemory(
            context_bytes=0,
            reserve_bytes=0,
            weights_bytes={"none": GIB},
            activations={("single", "none"): curve, ("item", "none"): curve},
        )
        dit.facts.models[0].memory.CopyFrom(memory.to_pb())
        dit.facts.device_bytes = GIB + 30 * MIB
        pipeline = pipeline_of([text_encoder, dit, vae])
        assert await pipeline.check(pb.GenerateRequest(caption="piano", duration_s=30)) == JobSize(30.0, 1)
        takes = pb.GenerateRequest(caption="piano", duration_s=30, batch_size=2)
        refusal = r"duration_s: is 30; accepted: 10 to 15 \(.*, 2 takes\)$"
        with pytest.raises(InvalidArgumentError, match=refusal):
            await pipeline.check(takes)
        with pytest.raises(InvalidArgumentError, match=refusal):
            await pipeline.run(takes, HeldAudio(), lambda event: None, Deadline.after(None))

    run(scenario())
