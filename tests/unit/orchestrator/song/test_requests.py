"""Every bad value of a generation request is refused with its field named; defaults fit the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from acestage.checks import Checks
from acestage.errors import InvalidArgumentError
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.text_encoder.v1.text_encoder_pb2 import EncodeParameters
from services.orchestrator.song import requests
from services.orchestrator.song.generation_settings import DenoisedOn
from services.runtime.rpc.request_limits import check_prompt

TURBO = Model(name="t", is_turbo=True, latent_frame_rate_hz=25, sample_rate_hz=48_000, hop_sample_count=1920)
BASE = Model(name="b", is_turbo=False, latent_frame_rate_hz=25, sample_rate_hz=48_000, hop_sample_count=1920)
NAN = float("nan")
INFINITY = float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("caption", ""),
        ("caption", "  \n"),
        ("caption", "x" * 10_001),
        ("lyrics", "la " * 350_000),
        ("instruction", "x" * 1_001),
        ("language", "klingon"),
        ("duration_s", 0),
        ("duration_s", 9.99),
        ("duration_s", 1e9),
        ("duration_s", NAN),
        ("duration_s", INFINITY),
        ("duration_s", -10),
        ("bpm", 29),
        ("bpm", 301),
        ("key_scale", "H major"),
        ("key_scale", "C lydian"),
        ("time_signature", "5"),
        ("seed", -2),
        ("seed", 2**63 - 1),
        ("step_count", 0),
        ("step_count", -3),
        ("step_count", 201),
        ("shift", 0),
        ("shift", NAN),
        ("guidance_scale", -1),
        ("guidance_scale", 31),
        ("guidance_scale", NAN),
        ("cfg_interval_start", -0.1),
        ("cfg_interval_end", 1.1),
        ("cfg_interval_end", NAN),
        ("timesteps", [0.5, 0.7]),
        ("timesteps", [0.5, 0.5]),
        ("timesteps", [1.5]),
        ("timesteps", [0.0]),
        ("timesteps", [NAN]),
        ("timesteps", [0.9, -0.1]),
        ("timesteps", [1 - i / 300 for i in range(300)]),
        ("batch_size", 0),
        ("batch_size", 9),
    ],
)
def test_a_bad_value_is_refused_and_named(field: str, value: object) -> None:
    request = GenerateRequest(**{"caption": "piano", field: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(request)
    assert field in {violation.field for violation in caught.value.violations}


def test_the_range_of_seeds_is_told_in_full() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(GenerateRequest(caption="piano", seed=2**63 - 1))
    assert caught.value.message == ("seed: is 9223372036854775807; accepted: -1 to 9223372036854775799")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"timesteps": [0.50000001, 0.5000000001]},
            "timesteps: are 0.50000001, 0.5000000001; accepted: up to 200 falling values in (0, 1]",
        ),
        (
            {"cfg_interval_start": 0.50000002, "cfg_interval_end": 0.50000001},
            "cfg_interval_start: is 0.50000002; accepted: up to cfg_interval_end, 0.50000001",
        ),
        ({"duration_s": 600.00001}, "duration_s: is 600.00001; accepted: 10 to 600 (the model)"),
    ],
)
def test_numbers_are_told_as_exactly_as_they_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(GenerateRequest(caption="piano", **fields))
    assert caught.value.message == message


PROMPTS = (GenerateRequest, EncodeParameters)


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("caption", "\t"),
        ("caption", "x" * 10_001),
        ("lyrics", "x" * 50_001),
        ("instruction", "x" * 1_001),
        ("language", "klingon"),
        ("bpm", 0),
        ("bpm", 301),
        ("key_scale", "c major"),
        ("time_signature", "4/4"),
    ],
)
def test_a_bad_prompt_is_named_in_either_request(
    kind: type[GenerateRequest | EncodeParameters], field: str, value: object
) -> None:
    checks = Checks()
    check_prompt(checks, kind(**{"caption": "piano", field: value}))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as caught:
        checks.done()
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"caption": "x" * 10_000, "lyrics": "é" * 50_000, "instruction": "x" * 1_000},
        {"language": " yue ", "key_scale": "B♭ minor ", "time_signature": " 6", "bpm": 300},
    ],
)
def test_a_good_prompt_is_accepted_in_either_request(
    kind: type[GenerateRequest | EncodeParameters], fields: dict[str, object]
) -> None:
    checks = Checks()
    check_prompt(checks, kind(**{"caption": "piano"} | fields))  # type: ignore[arg-type]
    checks.done()


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check(GenerateRequest(duration_s=0, bpm=1, key_scale="X"))
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {"caption", "duration_s", "bpm", "key_scale"}


def test_the_guidance_interval_must_not_be_empty() -> None:
    request = GenerateRequest(caption="x", cfg_interval_start=0.8, cfg_interval_end=0.2)
    with pytest.raises(InvalidArgumentError, match="cfg_interval_start"):
        requests.check(request)


def test_defaults_are_those_of_the_model() -> None:
    request = GenerateRequest(caption="piano")
    requests.check(request)
    turbo, base = requests.resolve(request, TURBO), requests.resolve(request, BASE)
    assert (turbo.step_count, turbo.guidance_scale) == (8, 1.0)
    assert (base.step_count, base.guidance_scale) == (32, 7.0)
    assert (turbo.duration_s, turbo.shift, turbo.language, len(turbo.seeds)) == (60.0, 3.0, "en", 1)
    assert turbo.frame_count(TURBO) == 1500


def test_a_length_of_whole_frames_has_just_these() -> None:
    settings = requests.resolve(GenerateRequest(caption="x"), TURBO)
    lengths = {
        count: replace(settings, duration_s=float(f"{count / 25:.2f}")).frame_count(TURBO)
        for count in range(250, 15_001)
    }
    assert [count for count, found in lengths.items() if found != count] == []
    assert replace(settings, duration_s=10.001).frame_count(TURBO) == 251


def test_turbo_models_ignore_guidance() -> None:
    settings = requests.resolve(GenerateRequest(caption="x", guidance_scale=9), TURBO)
    assert settings.guidance_scale == 1.0


def test_a_closing_zero_of_timesteps_is_dropped() -> None:
    request = GenerateRequest(caption="x", timesteps=[0.97, 0.5, 0.0])
    requests.check(request)
    settings = requests.resolve(request, TURBO)
    assert settings.timesteps == (0.97, 0.5)
    assert settings.step_count == 2


@pytest.mark.parametrize("timesteps", [[1.0, 0.99999999, 0.5], [0.5, 0.5], [0.5, 1e-50], [1.0000001]])
def test_timesteps_fall_in_float32_as_well(timesteps: list[float]) -> None:
    with pytest.raises(InvalidArgumentError, match="falling values in"):
        requests.check(GenerateRequest(caption="x", timesteps=timesteps))


@pytest.mark.parametrize("request_", [GenerateRequest(caption="x"), GenerateRequest(caption="x", seed=-1)])
def test_a_seed_is_drawn_where_none_is_given(request_: GenerateRequest) -> None:
    requests.check(request_)
    assert requests.resolve(request_, TURBO).seeds != requests.resolve(request_, TURBO).seeds


def test_items_of_a_batch_count_seeds_up() -> None:
    request = GenerateRequest(caption="x", seed=7, batch_size=3)
    assert requests.resolve(request, TURBO).seeds == (7, 8, 9)


@pytest.mark.parametrize("key", ["C major", "F# minor", "B♭ major", "Ab minor"])
def test_keys_may_have_accidentals(key: str) -> None:
    requests.check(GenerateRequest(caption="x", key_scale=key))


@pytest.mark.parametrize(
    ("dit", "vae", "song"),
    [
        ("eager", "eager", "eager"),
        ("compiled", "compiled", "compiled"),
        ("compiled", "eager", "mixed"),
        ("compiled", "mixed", "mixed"),
    ],
)
def test_the_settings_of_a_song_say_what_its_kernels_were(dit: str, vae: str, song: str) -> None:
    settings = requests.resolve(GenerateRequest(caption="piano"), TURBO)
    made = settings.to_pb(TURBO, DenoisedOn("cpu", "float32", "none", dit), vae)
    assert (made.kernels, made.device, made.quantization) == (song, "cpu", "none")
