"""Limits: what the device can, what the table says, what the settings cap, and who is named for it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from acestage.cli.flags import load_settings
from acestage.limits import Limit, Limits
from acestage.planning import GIB, MIB, ActivationCurve, LanguageModelMemory, Quantization, StageMemory
from acestage.protos.stage.v1 import stage_pb2
from acestage.settings import Settings
from services.orchestrator.limits import limits as limits_module
from services.orchestrator.limits.limits import MODEL_LIMITS, StageFacts

ROOT = Path(__file__).resolve().parents[4]
RATE_HZ = 25.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty; no setting comes from outside."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ACESTAGE_", "ACESTEP_", "MAX_CUDA_VRAM", "PYTORCH_CUDA_")):
            monkeypatch.delenv(name)
    return tmp_path


def curve(*points: tuple[int, int]) -> ActivationCurve:
    return ActivationCurve(tuple((frames, mib * MIB) for frames, mib in points))


def memory(modes: dict[str, ActivationCurve], halo: int = 0, **weights_mib: int) -> StageMemory:
    weights: dict[Quantization, int] = {
        kind: weights_mib[kind] * MIB for kind in ("none", "int8") if kind in weights_mib
    }
    return StageMemory(
        context_bytes=300 * MIB,
        reserve_bytes=100 * MIB,
        weights_bytes=weights,
        activations={(mode, kind): found for mode, found in modes.items() for kind in weights},
        halo_frame_count=halo,
    )


# 1 MiB for each second, 2 with both halves of guidance at once: 3000 MiB of weights leave 600 s on 4000 MiB.
DIT = memory(
    {"single": curve((25, 1), (15_000, 600)), "guided": curve((25, 2), (15_000, 1200))}, none=3000, int8=1600
)
TEXT_ENCODER = memory({"encode": curve((25, 50), (15_000, 60))}, none=2400, int8=1200)
VAE = memory({"tile": curve((1, 48), (15_000, 30_046))}, halo=10, none=160)
MEMORY = {"text_encoder": TEXT_ENCODER, "dit": DIT, "vae": VAE}


def stages(device_bytes: int, *, rate_hz: float = RATE_HZ, **changes: StageMemory | None) -> list[StageFacts]:
    found = MEMORY | changes
    return [StageFacts(name, "cuda:0", device_bytes, found[name], rate_hz) for name in MEMORY]


LANGUAGE_MODELS = [
    LanguageModelMemory(name, weights_bytes=weights, cache_bytes=0, activation_bytes=0)
    for name, weights in {"0.6B": 3 * GIB, "1.7B": 7 * GIB, "4B": 11 * GIB}.items()
]


def resolve(settings: Settings, facts: list[StageFacts], item_count: int = 1) -> Limits:
    return limits_module.resolve(settings, facts, LANGUAGE_MODELS, item_count)


def dit_source(device_bytes: int) -> str:
    return f"planner: dit on cuda:0 with {device_bytes / GIB:.1f} GiB"


def allowed(limits: Limits) -> dict[str, bool]:
    return {model.name: model.is_allowed for model in limits.language_models}


@pytest.mark.parametrize(
    ("device_mib", "quantization", "duration_s", "source"),
    [
        (4000, "none", 600, "the model"),
        (3999, "none", 599, "planner: dit on cuda:0 with 3.9 GiB"),
        (3580, "none", 180, "planner: dit on cuda:0 with 3.5 GiB"),
        (3411, "none", 11, "planner: dit on cuda:0 with 3.3 GiB"),
        (3409, "none", 0, "planner: dit on cuda:0 with 3.3 GiB"),
        (2000, "none", 0, "planner: text_encoder on cuda:0 with 2.0 GiB"),
        (3409, "auto", 600, "the model"),
        (2300, "auto", 300, "planner: dit on cuda:0 with 2.2 GiB"),
        (2300, "int8", 300, "planner: dit on cuda:0 with 2.2 GiB"),
        (1000, "auto", 0, "planner: text_encoder on cuda:0 with 1.0 GiB"),
    ],
)
def test_the_planner_allows_the_longest_song_for_which_every_stage_fits(
    device_mib: int, quantization: str, duration_s: int, source: str
) -> None:
    limits = resolve(load_settings(quantization=quantization), stages(device_mib * MIB))
    assert limits.max_duration_s == Limit(duration_s, source)
    assert limits.max_batch_size == Limit(8, "the most for one request")
    assert (limits.device, limits.device_bytes, limits.basis) == ("cuda:0", device_mib * MIB, "planner")


@pytest.mark.parametrize(
    ("item_count", "max_batch_size", "duration_s", "takes"),
    [
        (1, None, 180, ""),
        (2, None, 171, ", 2 takes"),
        (8, None, 133, ", 8 takes"),
        (100, None, 133, ", 8 takes"),
        (8, 2, 171, ", 2 takes"),
    ],
)
def test_every_take_after_the_first_costs_seconds_where_the_device_is_just_large_enough(
    item_count: int, max_batch_size: int | None, duration_s: int, takes: str
) -> None:
    """An item adds 0.05 MiB for each second, to 1 MiB for each second of the song."""
    per_item = {("item", kind): ActivationCurve(((1, 0), (15_000, 30 * MIB))) for kind in DIT.weights_bytes}
    dit = replace(DIT, activations=dict(DIT.activations) | per_item)
    settings = load_settings(quantization="none", max_batch_size=max_batch_size)
    limits = resolve(settings, stages(3580 * MIB, dit=dit), item_count)
    assert limits.max_duration_s == Limit(duration_s, dit_source(3580 * MIB) + takes)


def test_the_stage_that_fits_least_is_named() -> None:
    steep = memory({"encode": curve((25, 1), (15_000, 6000))}, none=2400)
    limits = resolve(load_settings(quantization="none"), stages(4000 * MIB, text_encoder=steep))
    assert limits.max_duration_s == Limit(120, "planner: text_encoder on cuda:0 with 3.9 GiB")


@pytest.mark.parametrize(
    ("tile_mib", "tile_frame_count", "duration_s"), [(102, None, 600), (101, None, 0), (101, 7, 600)]
)
def test_the_vae_needs_room_for_one_tile_whatever_the_song(
    tile_mib: int, tile_frame_count: int | None, duration_s: int
) -> None:
    """The smallest tile has 8 frames, with 10 of halo on each side: here 48 + 27 * 2 MiB."""
    facts = StageFacts("vae", "cuda:0", (300 + 100 + 160 + tile_mib) * MIB, VAE, RATE_HZ)
    settings = load_settings(vae_tile_frame_count=tile_frame_count)
    assert resolve(settings, [facts]).max_duration_s.value == duration_s


def test_each_stage_counts_on_its_own_device() -> None:
    small_vae = StageFacts("vae", "cuda:1", 500 * MIB, VAE, RATE_HZ)
    limits = resolve(load_settings(), [*stages(8000 * MIB)[:2], small_vae])
    assert limits.max_duration_s == Limit(0, "planner: vae on cuda:1 with 0.5 GiB")
    assert (limits.device, limits.device_bytes) == ("cuda:0", 8000 * MIB)


def test_the_limit_is_in_whole_seconds_at_any_frame_rate() -> None:
    for rate_hz in (21.53, 25.0, 43.07):
        limits = resolve(load_settings(), stages(80 * GIB, rate_hz=rate_hz))
        assert limits.max_duration_s == Limit(600, "the model")
    limits = resolve(load_settings(quantization="none"), stages(3580 * MIB, rate_hz=10.0))
    assert limits.max_duration_s == Limit(450, dit_source(3580 * MIB))


def test_what_is_not_known_sets_no_limit() -> None:
    settings = load_settings()
    assert resolve(settings, []).max_duration_s == MODEL_LIMITS.max_duration_s
    unknown = resolve(settings, stages(0))
    assert (unknown.max_duration_s, unknown.tier) == (MODEL_LIMITS.max_duration_s, "")
    assert all(allowed(unknown).values())
    no_figures = resolve(settings, stages(1000 * MIB, text_encoder=None, dit=None))
    assert no_figures.max_duration_s == MODEL_LIMITS.max_duration_s
    by_table = resolve(load_settings(limits="tier"), stages(0))
    assert (by_table.max_duration_s, by_table.tier) == (MODEL_LIMITS.max_duration_s, "")


def test_a_stage_that_reports_no_memory_is_read_as_such() -> None:
    models = [stage_pb2.StageModel(model=stage_pb2.Model(name=name)) for name in ("turbo", "base")]
    info = stage_pb2.GetStageInfoResponse(stage="dit", device="cpu", models=models)
    assert StageFacts.from_pb(info, "base") == StageFacts("dit", "cpu", 0, None, 0.0)
    info.models[1].memory.CopyFrom(DIT.to_pb())
    info.device_bytes = GIB
    assert StageFacts.from_pb(info, "base") == StageFacts("dit", "cpu", GIB, DIT, 0.0)
    assert StageFacts.from_pb(info, "turbo") == StageFacts("dit", "cpu", GIB, None, 0.0)


@pytest.mark.parametrize(
    ("max_vram_gb", "device_bytes", "counted"),
    [(4, 24 * GIB, 4 * GIB), (8, 6 * GIB, 6 * GIB), (4, 0, 4 * GIB), (None, 6 * GIB, 6 * GIB)],
)
@pytest.mark.parametrize("basis", ["planner", "tier"])
def test_a_smaller_device_can_be_simulated(
    basis: str, max_vram_gb: float | None, device_bytes: int, counted: int
) -> None:
    settings = load_settings(limits=basis, max_vram_gb=max_vram_gb)
    limits = resolve(settings, stages(device_bytes))
    assert limits == resolve(load_settings(limits=basis), stages(counted))
    assert limits.device_bytes == counted


@pytest.mark.parametrize(
    ("device_gb", "switch", "duration_s", "batch_size", "tier"),
    [
        (4, None, 180, 1, "tier 1 (up to 4 GB)"),
        (8, None, 360, 2, "tier 3 (6 to 8 GB)"),
        (8, False, 360, 2, "tier 3 (6 to 8 GB)"),
        (8, True, 240, 1, "tier 3 (6 to 8 GB)"),
        (15.4, None, 360, 4, "tier 5 (12 to 16 GB)"),
        (15.5, None, 480, 8, "tier 6 (16 to 24 GB)"),
        (15.5, True, 480, 4, "tier 6 (16 to 24 GB)"),
    ],
)
def test_the_table_sets_limits_where_it_is_the_basis(
    device_gb: float, switch: bool | None, duration_s: int, batch_size: int, tier: str
) -> None:
    settings = load_settings(limits="tier", init_language_model=switch)
    limits = resolve(settings, stages(int(device_gb * GIB)))
    assert limits.max_duration_s == Limit(duration_s, tier)
    batch_source = "the most for one request" if batch_size == 8 else tier
    assert limits.max_batch_size == Limit(batch_size, batch_source)
    assert (limits.tier, limits.basis) == (tier, "tier")


@pytest.mark.parametrize("basis", ["planner", "tier"])
def test_settings_cap_either_basis_and_raise_none(basis: str) -> None:
    on_8_gb = stages(8 * GIB)
    low = resolve(load_settings(limits=basis, max_duration_s=90.5, max_batch_size=1), on_8_gb)
    assert low.max_duration_s == Limit(90.5, "ACESTEP_MAX_DURATION")
    assert low.max_batch_size == Limit(1, "ACESTEP_MAX_BATCH_SIZE")
    high = resolve(load_settings(limits=basis, max_duration_s=1000, max_batch_size=20), on_8_gb)
    assert high == resolve(load_settings(limits=basis), on_8_gb)


def test_the_planner_allows_the_language_models_that_fit_by_themselves() -> None:
    for device_gb, names in ((2, ()), (4, ("0.6B",)), (8, ("0.6B", "1.7B")), (12, ("0.6B", "1.7B", "4B"))):
        limits = resolve(load_settings(), stages(device_gb * GIB))
        assert tuple(name for name, is_allowed in allowed(limits).items() if is_allowed) == names
    (small, _, large) = resolve(load_settings(), stages(4 * GIB)).language_models
    assert small.source == "planner: needs 3.4 GiB, cuda:0 has 4.0 GiB"
    assert large.source == "planner: needs 11.4 GiB, cuda:0 has 4.0 GiB"


def test_the_table_names_its_language_models() -> None:
    limits = resolve(load_settings(limits="tier"), stages(8 * GIB))
    assert allowed(limits) == {"0.6B": True, "1.7B": False, "4B": False}
    assert {model.source for model in limits.language_models} == {"tier 3 (6 to 8 GB)"}


@pytest.mark.parametrize("basis", ["planner", "tier"])
def test_settings_decide_on_language_models(basis: str) -> None:
    none = resolve(load_settings(limits=basis, init_language_model=False), stages(80 * GIB))
    assert not any(allowed(none).values())
    assert {model.source for model in none.language_models} == {"ACESTEP_INIT_LLM"}
    for path in ("acestep-5Hz-lm-4B", "/models/acestep-5Hz-lm-4B", "4B"):
        one = resolve(load_settings(limits=basis, language_model=path), stages(80 * GIB))
        assert allowed(one) == {"0.6B": False, "1.7B": False, "4B": True}
        assert one.language_models[0].source == "ACESTEP_LM_MODEL_PATH"
    too_large = resolve(load_settings(limits=basis, language_model="acestep-5Hz-lm-4B"), stages(4 * GIB))
    assert not any(allowed(too_large).values())
    unknown = resolve(load_settings(limits=basis, language_model="qwen-14B"), stages(80 * GIB))
    assert not any(allowed(unknown).values())


@pytest.mark.parametrize("device_gb", [4, 11, 80])
def test_the_file_for_4_gb_gives_the_classic_mode_on_any_card(device_gb: int, folder: Path) -> None:
    settings = load_settings(ROOT / ".env.4gb")
    shutil.copy(ROOT / ".env.4gb", folder / ".env")
    assert load_settings() == settings
    limits = resolve(settings, stages(device_gb * GIB))
    assert limits.max_duration_s == Limit(180, "tier 1 (up to 4 GB)")
    assert limits.max_batch_size == Limit(1, "tier 1 (up to 4 GB)")
    assert not any(allowed(limits).values())
    assert (limits.device_bytes, limits.tier) == (4 * GIB, "tier 1 (up to 4 GB)")
    assert settings.max_vram_gb == 4
    assert settings.pytorch_cuda_alloc_conf == "max_split_size_mb:128"
    assert (settings.offload_to_cpu, settings.offload_dit_to_cpu) == (True, True)


def test_limits_cross_the_wire_whole() -> None:
    limits = resolve(load_settings(limits="tier", max_duration_s=90.5), stages(8 * GIB))
    assert Limits.from_pb(limits.to_pb()) == limits
