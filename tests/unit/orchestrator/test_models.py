"""The model of a job, as the stages together serve it."""

from __future__ import annotations

import pytest

from acestage.errors import FailedPreconditionError, InvalidArgumentError
from acestage.generation import STAGES
from acestage.protos.stage.v1 import stage_pb2
from services.orchestrator.models import find_model


def model(name: str, *, channels: int = 64) -> stage_pb2.Model:
    return stage_pb2.Model(name=name, latent_channel_count=channels)


def info(stage: str, *models: stage_pb2.Model) -> stage_pb2.GetStageInfoResponse:
    hosted = [stage_pb2.StageModel(model=one, dtype="bfloat16") for one in models]
    return stage_pb2.GetStageInfoResponse(stage=stage, models=hosted)


TURBO, BASE, SFT = map(model, ("acestep-v15-turbo", "acestep-v15-base", "acestep-v15-sft"))


def test_a_model_is_found_by_name_and_the_first_is_the_default() -> None:
    infos = [info(stage, TURBO, BASE) for stage in STAGES]
    assert find_model(infos, "") == TURBO
    assert find_model(infos, "acestep-v15-base") == BASE
    assert find_model(infos, "base") == BASE


def test_only_what_all_stages_serve_is_accepted() -> None:
    infos = [info("text_encoder", SFT, TURBO, BASE), info("dit", BASE, TURBO), info("vae", TURBO, BASE, SFT)]
    assert find_model(infos, "") == TURBO
    with pytest.raises(InvalidArgumentError) as refused:
        find_model(infos, "sft")
    assert refused.value.message == "model: is 'sft'; accepted: acestep-v15-turbo, acestep-v15-base"


def test_models_of_one_name_that_are_not_the_same_do_not_count() -> None:
    other = model("acestep-v15-turbo", channels=8)
    infos = [info("text_encoder", TURBO, BASE), info("dit", other, BASE), info("vae", TURBO, BASE)]
    assert find_model(infos, "") == BASE


def test_stages_without_a_model_in_common_are_named_with_what_they_serve() -> None:
    infos = [info("text_encoder", TURBO, BASE), info("dit", SFT), info("vae", TURBO)]
    with pytest.raises(FailedPreconditionError) as refused:
        find_model(infos, "turbo")
    assert refused.value.message == (
        "the stages serve different models: text_encoder serves acestep-v15-turbo, acestep-v15-base; "
        "dit serves acestep-v15-sft; vae serves acestep-v15-turbo"
    )
