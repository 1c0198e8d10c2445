"""Requests against limits: refused with the limit and its source named, or lowered where they allow it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from acestage.errors import FieldViolation, InvalidArgumentError, VramBudgetExceededError
from acestage.limits import Clamped, Limit
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.limits.limits import MODEL_LIMITS
from services.orchestrator.song import requests

TURBO = Model(name="t", is_turbo=True, latent_frame_rate_hz=25)
LONGEST, MOST = Limit(180, "ACESTEP_MAX_DURATION"), Limit(2, "tier 3 (6 to 8 GB)")
LIMITS = replace(MODEL_LIMITS, max_duration_s=LONGEST, max_batch_size=MOST)
NOTHING_FITS = replace(MODEL_LIMITS, max_duration_s=Limit(0, "planner: dit on cuda:0 with 2.0 GiB"))


def violations(request: GenerateRequest, limits: requests.Limits = LIMITS) -> tuple[FieldViolation, ...]:
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(request, limits)
    return caught.value.violations


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"duration_s": 200}, ("duration_s", "is 200; accepted: 10 to 180 (ACESTEP_MAX_DURATION)")),
        ({"duration_s": 180.0001}, ("duration_s", "is 180.0001; accepted: 10 to 180 (ACESTEP_MAX_DURATION)")),
        ({"duration_s": 5}, ("duration_s", "is 5; accepted: 10 to 180 (ACESTEP_MAX_DURATION)")),
        ({"batch_size": 3}, ("batch_size", "is 3; accepted: 1 to 2 (tier 3 (6 to 8 GB))")),
    ],
)
def test_a_value_above_a_limit_is_refused_with_the_limit_and_its_source(
    fields: dict[str, float], violation: tuple[str, str]
) -> None:
    request = GenerateRequest(caption="x", **fields)  # type: ignore[arg-type]
    assert violations(request) == (FieldViolation(*violation),)


def test_what_a_limit_refuses_is_named_with_all_else_that_is_wrong() -> None:
    request = GenerateRequest(caption=" ", duration_s=200, batch_size=3, bpm=1)
    found = {violation.field for violation in violations(request)}
    assert found == {"caption", "duration_s", "batch_size", "bpm"}


def test_a_value_at_the_limit_is_accepted() -> None:
    requests.check(GenerateRequest(caption="x", duration_s=180, batch_size=2), LIMITS)


def test_without_other_limits_those_of_the_model_hold() -> None:
    request = GenerateRequest(caption="x", duration_s=600.5, batch_size=9)
    assert violations(request, MODEL_LIMITS) == (
        FieldViolation("duration_s", "is 600.5; accepted: 10 to 600 (the model)"),
        FieldViolation("batch_size", "is 9; accepted: 1 to 8 (the most for one request)"),
    )


@pytest.mark.parametrize("duration_s", [180.5, 600, 100_000])
def test_values_above_a_limit_are_lowered_where_the_request_allows_it(duration_s: float) -> None:
    request = GenerateRequest(caption="x", duration_s=duration_s, batch_size=9, clamp=True)
    lowered, clamped = requests.lower(request, LIMITS)
    requests.check(lowered, LIMITS)
    settings = requests.resolve(lowered, TURBO, LIMITS)
    assert (settings.duration_s, len(settings.seeds)) == (180, 2)
    assert clamped == (Clamped("duration_s", duration_s, LONGEST), Clamped("batch_size", 9, MOST))
    assert (request.duration_s, request.batch_size) == (duration_s, 9)
    assert [Clamped.from_pb(item.to_pb()) for item in clamped] == list(clamped)


@pytest.mark.parametrize(
    "fields", [{"duration_s": 200, "batch_size": 9}, {"duration_s": 180, "batch_size": 2, "clamp": True}]
)
def test_nothing_is_lowered_unasked_or_needlessly(fields: dict[str, float]) -> None:
    request = GenerateRequest(caption="x", **fields)  # type: ignore[arg-type]
    assert requests.lower(request, LIMITS) == (request, ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("duration_s", math.nan),
        ("duration_s", math.inf),
        ("duration_s", -200),
        ("duration_s", 9),
        ("batch_size", 0),
        ("batch_size", -9),
        ("step_count", 500),
    ],
)
def test_clamping_mends_nothing_else(field: str, value: float) -> None:
    request = GenerateRequest(caption="x", clamp=True, **{field: value})  # type: ignore[arg-type]
    lowered, clamped = requests.lower(request, LIMITS)
    assert clamped == ()
    assert [violation.field for violation in violations(lowered)] == [field]


@pytest.mark.parametrize(("limit_s", "duration_s"), [(600, 60), (60, 60), (45.5, 45.5)])
def test_a_song_without_a_duration_is_one_minute_or_as_long_as_allowed(
    limit_s: float, duration_s: float
) -> None:
    limits = replace(MODEL_LIMITS, max_duration_s=Limit(limit_s, "x"))
    request, clamped = requests.lower(GenerateRequest(caption="x", clamp=True), limits)
    requests.check(request, limits)
    assert requests.resolve(request, TURBO, limits).duration_s == duration_s
    assert clamped == ()


@pytest.mark.parametrize("fields", [{}, {"duration_s": 10}, {"duration_s": 200, "clamp": True}])
def test_where_nothing_fits_every_request_is_refused_with_the_reason(fields: dict[str, float]) -> None:
    request, clamped = requests.lower(
        GenerateRequest(caption="x", **fields),  # type: ignore[arg-type]
        NOTHING_FITS,
    )
    assert clamped == ()
    with pytest.raises(VramBudgetExceededError, match=r"no song fits.*dit on cuda:0 with 2\.0 GiB") as caught:
        requests.check(request, NOTHING_FITS)
    assert caught.value.metadata["field"] == "duration_s"
