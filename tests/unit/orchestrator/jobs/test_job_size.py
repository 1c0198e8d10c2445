"""The size of a job is known from its check on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from acestage.cli.flags import load_settings
from acestage.errors import ServiceUnreachableError
from acestage.generation import STAGES
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from services.orchestrator.jobs.job_size import JobSize
from services.orchestrator.pipeline import Pipeline

MODEL = stage_pb2.Model(
    name="turbo",
    latent_frame_rate_hz=25,
    sample_rate_hz=48_000,
    hop_sample_count=1920,
    audio_code_count=64,
    frames_per_audio_code=5,
)


class FakeStage:
    """Says which model it has, or does not answer."""

    def __init__(self, stage: str, *, answers: bool) -> None:
        self.stage = stage
        self._answers = answers

    async def info(self, timeout_s: float = 0.0) -> stage_pb2.GetStageInfoResponse:
        if not self._answers:
            raise ServiceUnreachableError("nobody there")
        return stage_pb2.GetStageInfoResponse(stage=self.stage, models=[stage_pb2.StageModel(model=MODEL)])


class FakeStore:
    """Has twenty seconds of audio under any name."""

    def facts(self, audio_id: str) -> Any:
        return SimpleNamespace(sample_count=20 * 48_000)


def size(request: pb.GenerateRequest, *, answers: bool = True) -> JobSize:
    stages = (cast(Any, FakeStage(name, answers=answers)) for name in STAGES)
    pipeline = Pipeline(*stages, cast(Any, FakeStore()), load_settings())
    return asyncio.run(pipeline.check(request))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"duration_s": 30.0, "batch_size": 2}, JobSize(30.0, 2)),
        ({"seeds": [3, 1, 4]}, JobSize(60.0, 3)),
        ({"duration_s": 900.0, "clamp": True}, JobSize(600.0, 1)),
        ({"task": "cover", "source_id": "a"}, JobSize(20.0, 1)),
        ({"task": "repaint", "source_id": "a", "repaint_end_s": 24.0}, JobSize(24.0, 1)),
        ({"audio_codes": "<|audio_code_1|>" * 60}, JobSize(12.0, 1)),
    ],
)
def test_it_is_what_the_request_its_source_or_its_codes_make(
    fields: dict[str, Any], expected: JobSize
) -> None:
    assert size(pb.GenerateRequest(caption="x", **fields)) == expected


def test_a_length_that_hangs_on_a_model_that_nobody_knows_yet_is_0() -> None:
    cover = pb.GenerateRequest(caption="x", task="cover", source_id="a", batch_size=2)
    assert size(cover, answers=False) == JobSize(0.0, 2)
    assert size(pb.GenerateRequest(caption="x", duration_s=30), answers=False) == JobSize(30.0, 1)


def test_it_is_that_of_stereo_float_samples_of_every_take() -> None:
    assert JobSize(duration_s=600.0, take_count=8).audio_bytes == 8 * 600 * 48_000 * 2 * 4
