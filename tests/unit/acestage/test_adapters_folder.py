"""Adapters found by name and read by their headers, without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from safetensors.torch import save_file

from acestage.adapters import MAX_FILE_BYTES, AdapterFolder, parse_key
from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.stored import stored_tensors
from acestage.errors import CheckpointError, NotFoundError
from scripts import random_adapter
from scripts.random_adapter import write_adapter

LAYER = "layers.0.self_attn.to_q"


def tensors(prefix: str = f"transformer.{LAYER}", **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.lora_A.weight": torch.ones(2, 64),
        f"{prefix}.lora_B.weight": torch.ones(64, 2),
        **{f"{prefix}.{name}": value for name, value in more.items()},
    }


@pytest.mark.parametrize(
    ("key", "module", "part"),
    [
        ("base_model.model.layers.3.cross_attn.o_proj.lora_A.weight", "layers.3.cross_attn.to_out.0", "down"),
        ("base_model.model.layers.0.self_attn.q_proj.lora_B.default.weight", LAYER, "up"),
        ("transformer.layers.0.self_attn.to_q.lora_B.weight", LAYER, "up"),
        ("transformer.layers.0.mlp.gate_proj.lora_A.weight", "layers.0.mlp.gate_proj", "down"),
        ("diffusion_model.decoder.layers.0.self_attn.q_proj.lora_down.weight", LAYER, "down"),
        ("base_model.model.layers.0.self_attn.q_proj.lora_up.weight", LAYER, "up"),
        ("layers.0.self_attn.q_proj.alpha", LAYER, "alpha"),
    ],
)
def test_names_of_every_trainer_mean_the_same_layers(key: str, module: str, part: str) -> None:
    parsed = parse_key(key)
    assert parsed is not None
    assert (parsed.module, parsed.part) == (module, part)


@pytest.mark.parametrize(
    "key", ["layers.0.self_attn.to_q.weight", f"{LAYER}.lora_magnitude_vector.weight", "lora_A.weight", ""]
)
def test_other_names_are_no_part_of_an_adapter(key: str) -> None:
    assert parse_key(key) is None


def test_names_of_kohya_are_refused_with_what_is_accepted(tmp_path: Path) -> None:
    save_file(tensors("lora_unet_layers_0_self_attn_to_q"), tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"lora_unet_layers_0.* are named as by kohya-ss .*; accepted: "
    ):
        AdapterFolder(tmp_path).open("x")


def test_original_names_become_those_that_diffusers_makes_of_them(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(checkpoints["base/original"], checkpoints_dir=Path())
    adapter = AdapterFolder(write_adapter(tmp_path / "x", checkpoint.path).parent).open("x")
    converted = AceStepLoraLoaderMixin.lora_state_dict(str(adapter.file), weight_name=adapter.file.name)
    assert {f"transformer.{layer.module}.lora_A.weight" for layer in adapter.layers} < converted.keys()
    known = {key.removesuffix(".weight") for key in stored_tensors(checkpoint.component(TRANSFORMER))}
    assert {layer.module for layer in adapter.layers} <= known


def test_the_listing_says_what_each_adapter_is(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    write_adapter(tmp_path / "peft", checkpoints["base/diffusers"], rank=4)
    write_adapter(tmp_path / "b.one.safetensors", checkpoints["base/diffusers"], file_format="diffusers")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"pickle")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    listing = AdapterFolder(tmp_path).listing()
    assert [one.name for one in listing] == ["b.one", "broken", "peft", "pickled"]
    usable = {one.name: one.adapter for one in listing if one.adapter}
    assert {name: (adapter.ranks, len(adapter.layers)) for name, adapter in usable.items()} == {
        "b.one": ((8,), 32),
        "peft": ((4,), 32),
    }
    assert usable["peft"].parameter_count == 4 * sum(
        layer.down.shape[1] + layer.up.shape[0] for layer in usable["peft"].layers
    )
    assert all(one.problem for one in listing if one.adapter is None)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", ".", "..", "", "inside/adapter_model", "in\0side"]
)
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    save_file(tensors(), tmp_path / "outside.safetensors")
    save_file(tensors(), folder / "inside.safetensors")
    with pytest.raises(NotFoundError, match="accepted: inside"):
        AdapterFolder(folder).open(name)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "adapters", tmp_path / "outside"
    (folder / "with_config").mkdir(parents=True)
    outside.mkdir()
    save_file(tensors(), outside / "adapter_model.safetensors")
    (outside / "adapter_config.json").write_text("{}")
    (folder / "folder").symlink_to(outside)
    (folder / "file.safetensors").symlink_to(outside / "adapter_model.safetensors")
    (folder / "nowhere.safetensors").symlink_to(folder / "nothing")
    save_file(tensors(), folder / "with_config" / "adapter_model.safetensors")
    (folder / "with_config" / "adapter_config.json").symlink_to(outside / "adapter_config.json")
    for name in ("folder", "file", "nowhere", "with_config"):
        with pytest.raises(CheckpointError, match=r"is not a file in|leads nowhere"):
            AdapterFolder(folder).open(name)
    save_file(tensors(), folder / "real.safetensors")
    (folder / "alias.safetensors").symlink_to("real.safetensors")
    assert AdapterFolder(folder).open("alias").file.name == "real.safetensors"


def test_a_folder_that_is_not_there_has_no_adapters(tmp_path: Path) -> None:
    folder = AdapterFolder(tmp_path / "missing")
    assert folder.listing() == []
    with pytest.raises(NotFoundError, match="no adapters there"):
        folder.open("x")


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (tensors() | {"text_encoder.x.weight": torch.ones(1)}, "no part of a LoRA adapter"),
        (tensors(**{"lora_magnitude_vector.weight": torch.ones(64)}), "no part of a LoRA adapter"),
        ({f"{LAYER}.lora_A.weight": torch.ones(2, 64)}, "lack one of their two matrices"),
        (tensors() | tensors("base_model.model.layers.0.self_attn.q_proj"), "twice under different names"),
        (
            tensors() | {f"transformer.{LAYER}.lora_B.weight": torch.ones(64, 3)},
            r"accepted: \[rank, inputs\]",
        ),
        (tensors() | {f"transformer.{LAYER}.lora_A.weight": torch.ones(2, 64, 1)}, r"accepted: \[rank"),
        (tensors() | {f"transformer.{LAYER}.lora_A.weight": torch.ones(2, 64).byte()}, "accepted: F32"),
        (tensors(alpha=torch.ones(2)), "accepted: one number"),
        ({}, "has no tensors"),
    ],
)
def test_what_is_no_lora_adapter_is_refused(
    tmp_path: Path, stored: dict[str, torch.Tensor], problem: str
) -> None:
    save_file(stored, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=problem):
        AdapterFolder(tmp_path).open("x")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"peft_type": "LOHA"}, "accepted: LORA"),
        ({"peft_type": "LORA", "use_dora": True}, "without DoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; accepted: true, false, gaussian"),
        ({"init_lora_weights": "PiSSA_niter_16"}, "path_initial_model_for_weight_conversion"),
        *(
            ({"init_lora_weights": value}, "as they are")
            for value in ("olora", "corda", "loftq", "lora_ga", 7)
        ),
        ([], "expected a JSON object"),
    ],
)
def test_settings_of_other_kinds_of_adapters_are_refused(
    tmp_path: Path, config: object, problem: str
) -> None:
    (tmp_path / "x").mkdir()
    save_file(tensors(), tmp_path / "x" / "adapter_model.safetensors")
    (tmp_path / "x" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=problem):
        AdapterFolder(tmp_path).open("x")


@pytest.mark.parametrize("value", [None, True, False, "gaussian", "eva", "orthogonal", "mica", "Gaussian"])
def test_adapters_that_began_beside_the_weights_are_accepted(tmp_path: Path, value: object) -> None:
    (tmp_path / "x").mkdir()
    save_file(tensors(), tmp_path / "x" / "adapter_model.safetensors")
    config = json.dumps({"peft_type": "LORA", "init_lora_weights": value})
    (tmp_path / "x" / "adapter_config.json").write_text(config)
    assert AdapterFolder(tmp_path).open("x").config is not None


def test_a_file_that_is_too_large_or_has_two_owners_is_refused(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "x.safetensors")
    os.truncate(tmp_path / "x.safetensors", MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(CheckpointError, match=f"accepted: up to {MAX_FILE_BYTES}"):
        AdapterFolder(tmp_path).open("x")
    (tmp_path / "x").mkdir()
    with pytest.raises(CheckpointError, match="accepted: one of the two"):
        AdapterFolder(tmp_path).open("x")


def test_a_file_of_diffusers_takes_no_alpha(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x.safetensors")
    given = ["random_adapter", out, "--checkpoint", "any", "--format", "diffusers", "--alpha", "4"]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit):
        random_adapter.main()
    assert "--alpha: a file of diffusers has none" in capsys.readouterr().err
