"""Adapters of a request are checked, and their weights are those that trainers mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestage.adapters import AdapterFolder
from acestage.errors import CheckpointError, InvalidArgumentError, NonFiniteError
from acestage.protos.dit.v1 import dit_pb2
from services.dit.adapter_requests import resolve_adapters
from services.dit.adapter_weights import load_matrices, read_again
from services.dit.adapters import Adapters
from services.dit.parameters import AdapterUse

RANK, LAYER = 4, "layers.0.self_attn.to_q"


class FakeTransformer(torch.nn.Module):
    """One layer that an adapter can change."""

    device = torch.device("cpu")

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.layers = torch.nn.ModuleList([torch.nn.Module()])
        attention = self.layers[0].self_attn = torch.nn.Module()
        attention.to_q = torch.nn.Linear(6, 5, bias=False, dtype=dtype)


def write(folder: Path, *, config: dict[str, Any] | None = None, **changes: torch.Tensor) -> Path:
    """A folder of PEFT's called "x" with ones in its matrices; `changes` replace or add tensors."""
    path = folder / "x"
    path.mkdir(exist_ok=True)
    parts = {"lora_A.weight": torch.ones(RANK, 6), "lora_B.weight": torch.ones(5, RANK)} | changes
    stored = {f"base_model.model.layers.0.self_attn.q_proj.{name}": part for name, part in parts.items()}
    save_file(stored, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config or {"peft_type": "LORA"}))
    return path


def scaling(folder: Path) -> float:
    (layer,) = load_matrices(AdapterFolder(folder).open("x"))
    assert layer.module == LAYER
    assert torch.equal(layer.down, torch.ones(RANK, 6))
    assert (layer.up == layer.up[0, 0]).all()
    return layer.up[0, 0].item()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 1.0),
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {r"layers\.1\..*": 2}}, 2.0),
    ],
)
def test_alpha_of_the_settings_scales_what_a_layer_adds(
    tmp_path: Path, config: dict[str, Any], expected: float
) -> None:
    write(tmp_path, config=config)
    assert scaling(tmp_path) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"decoder.layers.0.self_attn.q_proj": 2}, 0.5),
        ({r"^decoder\.layers\.[01]\..*": 2}, 0.5),
        ({"layers.0.self_attn.q_proj": 2}, 0.5),
        ({"q_proj": 2}, 0.5),
        ({r"^layers\..*": 1, r"^decoder\..*": 2}, 0.5),
        ({"coder.layers.0.self_attn.q_proj": 2}, 2.0),
        ({"base_model.model.decoder.layers.0.self_attn.q_proj": 2}, 2.0),
    ],
)
def test_patterns_name_layers_as_the_model_that_peft_wrapped_does(
    tmp_path: Path, pattern: dict[str, int], expected: float
) -> None:
    path = write(tmp_path, config={"lora_alpha": 8, "alpha_pattern": pattern}) / "adapter_model.safetensors"
    save_file({key.replace(".layers", ".decoder.layers"): one for key, one in load_file(path).items()}, path)
    assert scaling(tmp_path) == expected


def test_alpha_of_a_layer_wins_over_the_settings(tmp_path: Path) -> None:
    write(tmp_path, config={"lora_alpha": 8}, alpha=torch.tensor(2.0))
    assert scaling(tmp_path) == 0.5


def write_of_diffusers(folder: Path, settings: dict[str, Any]) -> None:
    stored = {
        f"transformer.{LAYER}.lora_A.weight": torch.ones(RANK, 6),
        f"transformer.{LAYER}.lora_B.weight": torch.ones(5, RANK),
    }
    kept = {f"transformer.{key}": value for key, value in settings.items()}
    save_file(stored, folder / "x.safetensors", {"lora_adapter_metadata": json.dumps(kept)})


def test_settings_that_diffusers_keeps_in_the_file_count(tmp_path: Path) -> None:
    write_of_diffusers(tmp_path, {"r": RANK, "lora_alpha": 12, "init_lora_weights": True})
    assert scaling(tmp_path) == 3.0


def test_settings_in_the_file_that_are_no_object_are_refused(tmp_path: Path) -> None:
    stored = {
        f"transformer.{LAYER}.lora_A.weight": torch.ones(RANK, 6),
        f"transformer.{LAYER}.lora_B.weight": torch.ones(5, RANK),
    }
    save_file(stored, tmp_path / "x.safetensors", {"lora_adapter_metadata": "[1]"})
    with pytest.raises(CheckpointError, match=r"x\.safetensors: its settings are no JSON object"):
        scaling(tmp_path)


def test_a_file_of_diffusers_that_began_with_other_weights_is_refused(tmp_path: Path) -> None:
    write_of_diffusers(tmp_path, {"r": RANK, "lora_alpha": 12, "init_lora_weights": "pissa"})
    with pytest.raises(
        CheckpointError, match=r"x\.safetensors: init_lora_weights is 'pissa'; accepted: true"
    ):
        scaling(tmp_path)


@pytest.mark.parametrize(
    "config", [{"lora_alpha": "much"}, {"alpha_pattern": {"(": 1}}, {"lora_alpha": math.inf}]
)
def test_settings_without_sense_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path, config=config)
    with pytest.raises(CheckpointError, match=r"make no sense|accepted: a finite number"):
        scaling(tmp_path)


def use(folder: Path, scale: float = 1.0) -> AdapterUse:
    wanted = [dit_pb2.Adapter(name="x", scale=scale)]
    (found,) = resolve_adapters(AdapterFolder(folder), wanted, "adapters")
    return found


def test_what_is_added_is_scale_times_alpha_over_rank_times_both_matrices(tmp_path: Path) -> None:
    down, up = torch.randn(RANK, 6), torch.randn(5, RANK)
    write(tmp_path, config={"lora_alpha": 2}, **{"lora_A.weight": down, "lora_B.weight": up})
    states = torch.randn(3, 6)
    (layer,) = load_matrices(AdapterFolder(tmp_path).open("x"))
    torch.testing.assert_close(states @ layer.down.T @ layer.up.T, 0.5 * states @ down.T @ up.T)


@pytest.mark.parametrize(
    ("changes", "dtype", "error", "words"),
    [
        ({"lora_A.weight": torch.ones(RANK, 7)}, torch.float32, InvalidArgumentError, "takes 7"),
        ({"lora_B.weight": torch.ones(9, RANK)}, torch.float32, InvalidArgumentError, "gives 9"),
        (
            {"lora_B.weight": torch.full((5, RANK), math.nan)},
            torch.float32,
            InvalidArgumentError,
            "not finite",
        ),
        ({"lora_B.weight": torch.full((5, RANK), 1e6)}, torch.float16, NonFiniteError, "adapter x"),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_is_named(
    tmp_path: Path,
    changes: dict[str, torch.Tensor],
    dtype: torch.dtype,
    error: type[Exception],
    words: str,
) -> None:
    write(tmp_path, **changes)
    transformer: Any = FakeTransformer(dtype)
    with pytest.raises(error, match=words) as caught, Adapters(transformer).applied([use(tmp_path)]):
        pass
    if isinstance(caught.value, InvalidArgumentError):
        assert [violation.field for violation in caught.value.violations] == ["parameters.adapters[0].name"]
    assert type(transformer.layers[0].self_attn.to_q) is torch.nn.Linear


def test_a_file_that_changes_while_the_job_waits_is_noticed(tmp_path: Path) -> None:
    write(tmp_path)
    planned = use(tmp_path)
    read_again(planned)
    write(tmp_path, alpha=torch.tensor(1.0))
    with pytest.raises(CheckpointError, match="has changed since the job was planned"):
        read_again(planned)


@pytest.mark.parametrize("change", [{"lora_alpha": 8}, {"lora_alpha": 4, "use_rslora": True}])
def test_settings_that_change_while_the_job_waits_are_noticed(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write(tmp_path, config={"lora_alpha": 4})
    planned = use(tmp_path)
    read_again(planned)
    (folder / "adapter_config.json").write_text(json.dumps(change))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: has changed since the job"):
        read_again(planned)


@pytest.mark.parametrize(
    ("adapters", "fields"),
    [
        ([dit_pb2.Adapter(name="y")], ["parameters.adapters[0].name"]),
        ([dit_pb2.Adapter(name="x", scale=5)], ["parameters.adapters[0].scale"]),
        ([dit_pb2.Adapter(name="x", scale=math.nan)], ["parameters.adapters[0].scale"]),
        (
            [dit_pb2.Adapter(name="x"), dit_pb2.Adapter(name="../x", scale=-9)],
            ["parameters.adapters[1].scale", "parameters.adapters[1].name"],
        ),
        ([dit_pb2.Adapter(name="x"), dit_pb2.Adapter(name="x")], ["parameters.adapters[1].name"]),
        ([dit_pb2.Adapter(name="x")] * 5, ["parameters.adapters"]),
    ],
)
def test_a_wrong_adapter_of_a_request_is_named(
    tmp_path: Path, adapters: list[dit_pb2.Adapter], fields: list[str]
) -> None:
    write(tmp_path)
    with pytest.raises(InvalidArgumentError) as caught:
        resolve_adapters(AdapterFolder(tmp_path), adapters, "parameters.adapters")
    assert [violation.field for violation in caught.value.violations] == fields
    assert all("accepted" in violation.description for violation in caught.value.violations)


def test_a_scale_that_is_not_set_is_1(tmp_path: Path) -> None:
    write(tmp_path)
    (found,) = resolve_adapters(AdapterFolder(tmp_path), [dit_pb2.Adapter(name="x")], "adapters")
    assert (found.scale, found.parameter_count, found.widest) == (1.0, RANK * 11, 5)
