"""Adapters give what `AceStepPipeline` gives with the same adapters, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from peft import LoraConfig, PeftModel, get_peft_model

from acestage.adapters import AdapterFolder
from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component
from acestage.planning import Quantization
from acestage.protos.dit.v1 import dit_pb2
from scripts.random_adapter import ATTENTION, write_adapter
from services.dit.adapter_requests import resolve_adapters
from services.dit.engine import DitEngine
from services.dit.parameters import DenoiseParameters
from tests.parity.reference import (
    TOLERANCE,
    denoise,
    load_reference,
    random_conditioning,
    reference_latents,
)

PARAMETERS = DenoiseParameters(seeds=(7,), step_count=2, guidance_scale=3.0)
FILES = {
    "original": "original/adapter_model.safetensors",
    "diffusers": "diffusers.safetensors",
    "wide": "wide.safetensors",
    "strong": "strong/adapter_model.safetensors",
}


@pytest.fixture(scope="module")
def folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters for the base model: of both formats, of other layers, and with an alpha of twice the rank."""
    path, base = tmp_path_factory.mktemp("adapters"), checkpoints["base/diffusers"]
    write_adapter(path / "original", base, seed=1)
    write_adapter(path / "diffusers.safetensors", base, file_format="diffusers", seed=2, rank=4)
    mlp = (*ATTENTION, "gate_proj", "up_proj", "down_proj", "condition_embedder", "linear_1", "time_proj")
    write_adapter(path / "wide.safetensors", base, file_format="diffusers", seed=3, targets=mlp)
    write_adapter(path / "strong", base, seed=1, alpha=16)
    return path


@pytest.fixture(scope="module")
def engine(checkpoints: dict[str, Path]) -> DitEngine:
    path = checkpoints["base/diffusers"]
    return DitEngine(load_component(open_checkpoint(path, checkpoints_dir=Path()), "transformer"))


@pytest.fixture
def pipeline(checkpoints: dict[str, Path]) -> Any:
    return load_reference(checkpoints["base/diffusers"])


def with_adapters(folder: Path, scales: dict[str, float]) -> DenoiseParameters:
    wanted = [dit_pb2.Adapter(name=name, scale=scale) for name, scale in scales.items()]
    found = resolve_adapters(AdapterFolder(folder), wanted, "adapters")
    return dataclasses.replace(PARAMETERS, adapters=found)


@pytest.mark.parametrize(
    "scales",
    [{"original": 1.0}, {"diffusers": -0.7}, {"wide": 0.5}, {"original": 0.8, "wide": 0.4}],
    ids=lambda scales: "+".join(scales),
)
def test_latents_are_those_of_the_pipeline(
    folder: Path, engine: DitEngine, pipeline: Any, scales: dict[str, float]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is more than one adapter
        for name in scales:
            file = folder / FILES[name]
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    pipeline.set_adapters(list(scales), list(scales.values()))
    given, reference = reference_latents(
        pipeline,
        prompt="warm piano",
        audio_duration=10.0,
        num_inference_steps=PARAMETERS.step_count,
        guidance_scale=PARAMETERS.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    ours = denoise(engine, given, with_adapters(folder, scales))
    size = reference.abs().max()
    assert (ours - reference).abs().max() <= TOLERANCE * size
    assert (ours - denoise(engine, given, PARAMETERS)).abs().max() > 100 * TOLERANCE * size


def test_alpha_in_the_settings_of_peft_counts_as_in_peft(folder: Path, engine: DitEngine) -> None:
    given = random_conditioning()
    assert json.loads((folder / "strong/adapter_config.json").read_text())["lora_alpha"] == 16
    strong = denoise(engine, given, with_adapters(folder, {"strong": 0.5}))
    assert torch.equal(strong, denoise(engine, given, with_adapters(folder, {"original": 1.0})))


class WholeModel(torch.nn.Module):
    """The transformer as it lies in the original model, which trainers wrap."""

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        super().__init__()
        self.decoder = transformer


def test_ranks_and_alphas_of_single_layers_count_as_in_peft(
    checkpoints: dict[str, Path], tmp_path: Path, engine: DitEngine
) -> None:
    checkpoint = open_checkpoint(checkpoints["base/diffusers"], checkpoints_dir=Path())
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=True,
        rank_pattern={"decoder.layers.0.self_attn.to_q": 2, "down_proj": 6},
        alpha_pattern={r"^decoder\.layers\.1\..*": 3, "decoder.layers.0.self_attn.to_q": 16, "to_v": 5},
        target_modules=["to_q", "to_v", "down_proj"],
        init_lora_weights=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        trained = get_peft_model(WholeModel(load_component(checkpoint, "transformer")), config)
        trained.save_pretrained(tmp_path / "x")
    untrained = WholeModel(load_component(checkpoint, "transformer"))
    merged = PeftModel.from_pretrained(untrained, tmp_path / "x")
    given = random_conditioning()
    expected = denoise(DitEngine(merged.merge_and_unload().decoder), given, PARAMETERS)
    ours = denoise(engine, given, with_adapters(tmp_path, {"x": 1.0}))
    size = expected.abs().max()
    assert (ours - expected).abs().max() <= TOLERANCE * size
    assert (ours - denoise(engine, given, PARAMETERS)).abs().max() > 100 * TOLERANCE * size


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [(torch.float32, "none"), (torch.bfloat16, "int8"), (torch.float16, "int8")],
)
def test_afterwards_the_model_gives_the_same_bits_as_before(
    checkpoints: dict[str, Path], folder: Path, dtype: torch.dtype, quantization: Quantization
) -> None:
    path = checkpoints["base/diffusers"]
    engine = DitEngine(load_component(open_checkpoint(path, checkpoints_dir=Path()), "transformer"))
    engine.place(torch.device("cpu"), dtype, quantization)
    given = random_conditioning()
    before = denoise(engine, given, PARAMETERS)
    changed = denoise(engine, given, with_adapters(folder, {"original": 1.0, "wide": 0.5}))
    assert (changed - before).abs().max() > 0.1 * before.abs().max()
    assert torch.equal(denoise(engine, given, PARAMETERS), before)
    assert torch.equal(denoise(engine, given, with_adapters(folder, {"original": 0.0})), before)
    again = denoise(engine, given, with_adapters(folder, {"original": 1.0, "wide": 0.5}))
    assert torch.equal(again, changed)
    assert not [name for name, _ in engine.transformer.named_parameters() if "lora" in name]


def test_work_that_is_given_up_leaves_no_adapter(folder: Path, engine: DitEngine) -> None:
    given = random_conditioning()
    before = denoise(engine, given, PARAMETERS)
    with torch.no_grad():
        work = engine.denoise(given, with_adapters(folder, {"wide": 1.0}))
        next(iter(work))
        assert [name for name, _ in engine.transformer.named_parameters() if "lora" in name]
        work.close()  # type: ignore[attr-defined]
    assert torch.equal(denoise(engine, given, PARAMETERS), before)
