from __future__ import annotations

import dataclasses

import pytest

from acestage.checkpoints.published import language_model_configs
from acestage.planning import (
    GIB,
    MIB,
    ActivationCurve,
    LanguageModelMemory,
    Plan,
    StageMemory,
    Wishes,
    choose_dit,
    choose_tile,
    make_plan,
)

FLAT = ActivationCurve(((1, 100 * MIB),))


def stage(**changes: object) -> StageMemory:
    """1000 MiB of weights (500 in INT8), 10 MiB of context, 10 MiB of reserve."""
    plain = StageMemory(
        context_bytes=10 * MIB,
        reserve_bytes=10 * MIB,
        weights_bytes={"none": 1000 * MIB, "int8": 500 * MIB},
        activations={},
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


ENCODER = stage(activations={("encode", "none"): FLAT, ("encode", "int8"): FLAT})
# 1 MiB a second at 25 frames a second, twice as much for both halves of guidance, and 10 MiB an item.
SLOPE = ActivationCurve(((25, MIB), (25 * 600, 600 * MIB)))
STEEP = ActivationCurve(((25, 2 * MIB), (25 * 600, 1200 * MIB)))
ITEM = ActivationCurve(((1, 10 * MIB),))
TURBO = stage(
    activations={
        ("single", "none"): SLOPE,
        ("single", "int8"): SLOPE,
        ("item", "none"): ITEM,
        ("item", "int8"): ITEM,
    }
)
BASE = dataclasses.replace(
    TURBO, activations={**TURBO.activations, ("guided", "none"): STEEP, ("guided", "int8"): STEEP}
)
# 2 MiB a frame, 10 frames of halo on each side.
VAE = stage(
    weights_bytes={"none": 100 * MIB},
    activations={("tile", "none"): ActivationCurve(((1, 2 * MIB), (501, 1002 * MIB)))},
    halo_frame_count=10,
)


def planned(
    device_mib: int, duration_s: float = 100, batch_size: int = 1, *, dit: StageMemory = TURBO
) -> Plan:
    stages = {"text_encoder": ENCODER, "dit": dit, "vae": VAE}
    return make_plan(stages, device_mib * MIB, duration_s, batch_size, wishes=Wishes("bfloat16"))


def test_the_vae_may_have_another_data_type() -> None:
    stages = {"text_encoder": ENCODER, "dit": TURBO, "vae": VAE}
    plan = make_plan(stages, 4096 * MIB, 100, wishes=Wishes("float16", vae_dtype="float32"))
    assert {name: stage.dtype for name, stage in plan.stages.items()} == {
        "text_encoder": "float16",
        "dit": "float16",
        "vae": "float32",
    }


def test_weights_stay_as_they_are_where_they_fit() -> None:
    plan = planned(1120)
    assert plan.fits
    assert [plan.stages[name].quantization for name in plan.stages] == ["none", "none", "none"]
    assert plan.stages["dit"].total_bytes == 1120 * MIB


def test_a_megabyte_less_takes_int8() -> None:
    plan = planned(1119)
    assert plan.fits
    assert plan.stages["dit"].quantization == "int8"
    assert plan.stages["dit"].weights_bytes == 500 * MIB


def test_int8_is_not_taken_where_it_is_not_wanted() -> None:
    choice = choose_dit(TURBO, 1119 * MIB, 2500, has_guidance=False, quantization="none")
    assert (choice.quantization, choice.fits) == ("none", False)


@pytest.mark.parametrize(
    ("budget_mib", "mode", "quantization"),
    [(1220, "guided", "none"), (1219, "single", "none"), (1119, "guided", "int8"), (719, "single", "int8")],
)
def test_guidance_is_split_before_weights_are_quantized(
    budget_mib: int, mode: str, quantization: str
) -> None:
    choice = choose_dit(BASE, budget_mib * MIB, 2500, has_guidance=True)
    assert (choice.mode, choice.quantization, choice.fits) == (mode, quantization, True)


def test_what_fits_in_no_way_is_shown_in_the_smallest() -> None:
    choice = choose_dit(BASE, 600 * MIB, 2500, has_guidance=True)
    assert (choice.mode, choice.quantization, choice.fits) == ("single", "int8", False)


@pytest.mark.parametrize(
    ("budget_mib", "tile"), [(416, 128), (415, 96), (192, 16), (191, 12), (183, 8), (176, 8), (175, 0)]
)
def test_the_tile_is_the_largest_that_fits_with_its_halo(budget_mib: int, tile: int) -> None:
    assert choose_tile(VAE, budget_mib * MIB) == tile


def test_a_tile_is_no_larger_than_was_asked_for() -> None:
    assert choose_tile(VAE, GIB, most=5) == 5
    assert choose_tile(VAE, 183 * MIB, most=20) == 8


def test_the_longest_song_and_the_largest_batch_fill_the_device() -> None:
    plan = planned(1220 - 500 + 5, duration_s=100)
    assert plan.max_duration_s == 205
    assert not planned(725, duration_s=206).fits
    assert planned(725, duration_s=205).fits
    assert planned(725, duration_s=195, batch_size=2).fits
    assert not planned(725, duration_s=196, batch_size=2).fits
    assert planned(725, duration_s=185).max_batch_size == 3


def test_what_does_not_fit_at_all_has_no_longest_song() -> None:
    plan = planned(500)
    assert not plan.fits
    assert (plan.max_duration_s, plan.max_batch_size) == (0, 0)
    assert not plan.stages["dit"].fits
    assert plan.stages["vae"].fits


def test_small_devices_have_one_stage_at_a_time() -> None:
    small, large = planned(4096), planned(4097)
    assert (small.exclusive, small.resident) == (True, False)
    assert (large.exclusive, large.resident) == (False, True)


def test_the_json_has_the_totals() -> None:
    stages = planned(1120).to_json()["stages"]
    assert stages["dit"]["total_bytes"] == 1120 * MIB
    assert stages["vae"]["tile_frames"] == 128
    assert stages["dit"]["tile_frames"] is None


def test_language_models_have_the_parameters_of_qwen3() -> None:
    models = [LanguageModelMemory.of(name, config) for name, config in language_model_configs().items()]
    # Qwen3's parameters, with 217,204 rows of embedding instead of 151,936.
    expected = [596_049_920 + 65_268 * 1024, 1_720_574_976 + 65_268 * 2048, 4_022_468_096 + 65_268 * 2560]
    assert [model.name for model in models] == ["0.6B", "1.7B", "4B"]
    assert [model.weights_bytes // 2 for model in models] == expected


def test_a_language_model_fits_from_its_total_on() -> None:
    model = LanguageModelMemory.of("0.6B", language_model_configs()["0.6B"])
    stages = {"text_encoder": ENCODER, "dit": TURBO, "vae": VAE}
    for device_bytes, expected in ((model.total_bytes, ["0.6B"]), (model.total_bytes - 1, [])):
        plan = make_plan(stages, device_bytes, 30, wishes=Wishes("bfloat16"), language_models=[model])
        assert plan.language_models == expected
