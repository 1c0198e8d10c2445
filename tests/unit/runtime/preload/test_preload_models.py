"""The models of a stage in its preload: what is mapped, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.errors import FailedPreconditionError
from acestage.planning import StageMemory
from services.dit.worker import DitWorker
from services.runtime.devices import devices
from services.runtime.preload import parallel_measuring
from services.runtime.preload.facts import PreloadFacts
from services.runtime.preload.models import map_models
from services.runtime.stage_config import StageConfig
from services.vae.worker import VaeWorker


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, torch.dtype]]:
    """What was measured: whether a turbo model, and in which type. Each has other figures, found at once."""
    found: list[tuple[bool, torch.dtype]] = []

    def memory(worker: Any, dtype: torch.dtype, threads: int | None) -> StageMemory:
        found.append((getattr(worker.engine, "is_turbo", False), dtype))
        return StageMemory(len(found), 0, {"none": 5}, {})

    monkeypatch.setattr(DitWorker, "memory", memory)
    monkeypatch.setattr(VaeWorker, "memory", memory)
    monkeypatch.setattr(
        parallel_measuring, "measure_all", lambda measurements: [one() for one in measurements]
    )
    return found


Config = Callable[..., StageConfig]
TURBO, BASE, XL = "turbo-diffusers", "base-diffusers", "xl-diffusers"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return partial(_config, tmp_path / "cache")


def _config(cache_dir: Path, stage: str, *checkpoints: Path, dtype: str = "auto") -> StageConfig:
    return StageConfig(
        stage=stage,
        checkpoints=tuple(map(str, checkpoints)),
        checkpoints_dir="checkpoints",
        variant=None,
        device="cpu",
        dtype=dtype,
        run_dir="/nowhere",
        cache_dir=str(cache_dir),
        log_level="INFO",
        threads=1,
    )


@pytest.mark.parametrize(("stage", "dtype"), [("vae", "float32"), ("dit", "float16")])
def test_the_vae_alone_computes_in_float32_on_a_card_that_fails_at_convolutions(
    stage: str, dtype: str, checkpoints: dict[str, Path], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_compute_capability", lambda device: (7, 5))
    monkeypatch.setattr(devices, "_name", lambda device: "NVIDIA GeForce GTX 1650")
    found = map_models(replace(config(stage, checkpoints["turbo/diffusers"]), device="cuda:0"))
    assert found.facts.models[TURBO].dtype == dtype


def test_models_with_the_same_weights_have_one_worker(checkpoints: dict[str, Path], config: Config) -> None:
    paths = [checkpoints[f"{variant}/diffusers"] for variant in ("turbo", "base", "xl")]
    found = map_models(config("vae", *paths))
    assert {name: model.weights_of for name, model in found.facts.models.items()} == {
        TURBO: TURBO,
        BASE: TURBO,
        XL: XL,
    }
    assert tuple(found.workers) == (TURBO, XL)


def test_models_are_measured_once_for_each_architecture_and_data_type(
    checkpoints: dict[str, Path], measured: list[tuple[bool, torch.dtype]], config: Config
) -> None:
    paths = [checkpoints[name] for name in ("turbo/original", "base/original", "base/diffusers")]
    hosted = map_models(config("dit", *paths, dtype="float16")).facts.models
    assert all(name == model.weights_of for name, model in hosted.items())  # keys differ between layouts
    both = (torch.float16, torch.float32)
    assert measured == [(is_turbo, dtype) for is_turbo in (True, False) for dtype in both]
    for model in hosted.values():
        assert (model.dtype, tuple(model.memories)) == ("float16", ("float16", "float32"))
    turbo, one, other = (model.memories for model in hosted.values())
    assert one == other
    figures = [memory.context_bytes for memory in (*turbo.values(), *one.values())]
    assert figures == [1, 2, 3, 4]


def test_the_next_start_measures_nothing(
    checkpoints: dict[str, Path], measured: list[tuple[bool, torch.dtype]], config: Config
) -> None:
    started = config("dit", checkpoints["turbo/diffusers"])
    facts = map_models(started).facts
    assert len(measured) == 1
    assert map_models(started).facts == facts
    assert len(measured) == 1
    map_models(config("dit", checkpoints["turbo/diffusers"], checkpoints["base/diffusers"]))
    assert measured == [(True, torch.float32), (False, torch.float32)]


def test_two_models_of_one_name_are_refused(
    checkpoints: dict[str, Path], tmp_path: Path, config: Config
) -> None:
    path = checkpoints["turbo/diffusers"]
    namesake = tmp_path / path.name
    namesake.symlink_to(path)
    with pytest.raises(FailedPreconditionError, match=f"are both called {path.name}; accepted"):
        map_models(config("vae", path, namesake))


def test_facts_survive_the_way_to_the_service(checkpoints: dict[str, Path], config: Config) -> None:
    facts = map_models(config("vae", checkpoints["turbo/diffusers"], checkpoints["xl/diffusers"])).facts
    assert PreloadFacts.from_fields(facts.to_fields()) == facts
