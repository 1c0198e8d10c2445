from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestage.checkpoints import Checkpoint, open_checkpoint
from acestage.checkpoints.key_schemes import KeyScheme, file_key, module_key
from acestage.checkpoints.loading import load_component, verify
from acestage.errors import CheckpointError
from scripts.random_checkpoint import write_checkpoint

LAYER_KEYS = {
    "transformer": {
        "decoder.layers.1.self_attn.q_proj.weight": "layers.1.self_attn.to_q.weight",
        "decoder.layers.1.cross_attn.k_proj.weight": "layers.1.cross_attn.to_k.weight",
        "decoder.layers.1.cross_attn.v_proj.bias": "layers.1.cross_attn.to_v.bias",
        "decoder.layers.1.self_attn.o_proj.weight": "layers.1.self_attn.to_out.0.weight",
        "decoder.layers.1.self_attn.q_norm.weight": "layers.1.self_attn.norm_q.weight",
        "decoder.layers.1.cross_attn.k_norm.weight": "layers.1.cross_attn.norm_k.weight",
        "decoder.layers.1.mlp.gate_proj.weight": "layers.1.mlp.gate_proj.weight",
        "decoder.proj_in.1.weight": "proj_in_conv.weight",
        "decoder.proj_out.1.bias": "proj_out_conv.bias",
        "decoder.scale_shift_table": "scale_shift_table",
    },
    "condition_encoder": {
        "encoder.timbre_encoder.special_token": "timbre_encoder.special_token",
        "encoder.lyric_encoder.layers.0.self_attn.o_proj.weight": (
            "lyric_encoder.layers.0.self_attn.to_out.0.weight"
        ),
        "null_condition_emb": "null_condition_emb",
    },
    "audio_tokenizer": {"tokenizer.quantizer.project_in.bias": "quantizer.project_in.bias"},
    "audio_token_detokenizer": {"detokenizer.proj_out.weight": "proj_out.weight"},
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "pipeline")
    write_checkpoint(folder / "root", layout="original")
    write_checkpoint(folder / "sharded", layout="original", shard_count=3)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "checkpoints")


Tensors = dict[str, torch.Tensor]


def edit(path: Path, change: Callable[[Tensors], object]) -> None:
    """Changes the tensors of a safetensors file."""
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def opened(folder: Path, name: str) -> Checkpoint:
    return open_checkpoint(name, checkpoints_dir=folder)


def refusal(checkpoint: Checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        verify(checkpoint)
    return caught.value.message


@pytest.mark.parametrize(
    ("component", "original", "module"),
    [(component, *pair) for component, keys in LAYER_KEYS.items() for pair in keys.items()],
)
def test_original_keys_are_renamed_and_back(component: str, original: str, module: str) -> None:
    assert module_key(KeyScheme.ORIGINAL, component, original) == module
    assert file_key(KeyScheme.ORIGINAL, component, module) == original


@pytest.mark.parametrize("component", ["condition_encoder", "audio_tokenizer", "audio_token_detokenizer"])
def test_original_keys_of_other_components_are_skipped(component: str) -> None:
    assert module_key(KeyScheme.ORIGINAL, component, "decoder.norm_out.weight") is None


@pytest.mark.parametrize(
    "key",
    [
        "tokenizer.quantizer.layers.0._levels",
        "tokenizer.quantizer.layers.0.implicit_codebook",
        "tokenizer.quantizer._basis",
        "tokenizer.quantizer.scales",
    ],
)
def test_derived_tables_in_original_files_are_ignored(folder: Path, key: str) -> None:
    path = folder / "root" / "acestep-v15-turbo" / "model.safetensors"
    edit(path, lambda tensors: tensors.update({key: torch.zeros(6)}))

    assert verify(opened(folder, "root"))


def test_verify_summarises_every_component(pristine: Path) -> None:
    summaries = {summary.component: summary for summary in verify(opened(pristine, "pipeline"))}

    assert list(summaries) == [
        "transformer",
        "condition_encoder",
        "vae",
        "text_encoder",
        "audio_tokenizer",
        "audio_token_detokenizer",
    ]
    files = pristine / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    stored = load_file(files)
    assert summaries["transformer"].tensor_count == len(stored)
    assert summaries["transformer"].byte_count == sum(tensor.nbytes for tensor in stored.values())
    assert summaries["transformer"].file_count == 1
    assert summaries["transformer"].dtypes == ("F32",)


def test_verify_counts_shards(pristine: Path) -> None:
    checkpoint = opened(pristine, "sharded")

    assert len(checkpoint.component("transformer").weights.shards) == 3
    assert sum(summary.file_count for summary in verify(checkpoint)) > 6


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("pipeline/transformer/diffusion_pytorch_model.safetensors", "layers.0.self_attn.to_q.weight"),
        ("pipeline/condition_encoder/diffusion_pytorch_model.safetensors", "silence_latent"),
        ("pipeline/vae/diffusion_pytorch_model.safetensors", "encoder.conv1.weight_g"),
        ("root/acestep-v15-turbo/model.safetensors", "decoder.layers.0.self_attn.q_proj.weight"),
        ("root/acestep-v15-turbo/model.safetensors", "null_condition_emb"),
        ("root/Qwen3-Embedding-0.6B/model.safetensors", "embed_tokens.weight"),
    ],
)
def test_missing_key_is_named(folder: Path, file: str, key: str) -> None:
    edit(folder / file, lambda tensors: tensors.pop(key))

    message = refusal(opened(folder, file.split("/")[0]))

    assert message.startswith(f"{folder / file}: ")
    assert f"1 key missing: {key}" in message


def test_many_missing_keys_are_counted(folder: Path) -> None:
    path = folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    edit(path, lambda tensors: [tensors.pop(key) for key in sorted(tensors) if key.startswith("layers.3.")])

    message = refusal(opened(folder, "pipeline"))

    assert "19 keys missing: layers.3." in message
    assert message.endswith("and 16 more")


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("pipeline/transformer/diffusion_pytorch_model.safetensors", "layers.9.mlp.up_proj.weight"),
        ("root/acestep-v15-turbo/model.safetensors", "decoder.layers.9.self_attn.q_proj.weight"),
        ("root/acestep-v15-turbo/model.safetensors", "model.embed_tokens.weight"),
        ("root/acestep-v15-turbo/model.safetensors", "tokenizer.quantizer.codebook"),
    ],
)
def test_unexpected_key_is_named(folder: Path, file: str, key: str) -> None:
    edit(folder / file, lambda tensors: tensors.update({key: torch.zeros(2)}))

    message = refusal(opened(folder, file.split("/")[0]))

    assert message.startswith(f"{folder / file}: ")
    assert f"1 key unexpected: {key}" in message


def test_wrong_shape_is_named_with_the_expected_one(folder: Path) -> None:
    path = folder / "root" / "acestep-v15-turbo" / "model.safetensors"
    edit(path, lambda tensors: tensors.update({"decoder.proj_out.1.weight": torch.zeros(64, 4, 2)}))

    message = refusal(opened(folder, "root"))

    assert message.startswith(f"{path}: ")
    assert "decoder.proj_out.1.weight is [64, 4, 2], expected [64, 8, 2]" in message
    assert str(folder / "root" / "acestep-v15-turbo" / "config.json") in message


def test_quantised_weights_are_refused(folder: Path) -> None:
    path = folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    edit(path, lambda tensors: tensors.update({"norm_out.weight": tensors["norm_out.weight"].to(torch.int8)}))

    message = refusal(opened(folder, "pipeline"))

    assert message.startswith(f"{path}: ")
    assert "norm_out.weight is I8, expected F32 or BF16 or F16" in message


def test_damaged_file_is_found_before_a_weight_is_read(folder: Path) -> None:
    path = folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors: truncated"):
        load_component(opened(folder, "pipeline"), "transformer")


def test_missing_shard_is_named(folder: Path) -> None:
    shard = folder / "sharded" / "acestep-v15-turbo" / "model-00002-of-00003.safetensors"
    shard.unlink()

    with pytest.raises(CheckpointError) as caught:
        opened(folder, "sharded")

    assert caught.value.message == (
        f"{shard}: file not found; model.safetensors.index.json names it (1 of 3 shards are missing)"
    )


def test_key_that_is_not_in_its_shard_is_named(folder: Path) -> None:
    shard = folder / "sharded" / "acestep-v15-turbo" / "model-00001-of-00003.safetensors"
    key = min(load_file(shard))
    edit(shard, lambda tensors: tensors.pop(key))

    message = refusal(opened(folder, "sharded"))

    assert message == f"{shard}: {key}: missing, model.safetensors.index.json says it is there"


def test_key_in_two_shards_is_refused(folder: Path) -> None:
    shard = folder / "sharded" / "acestep-v15-turbo" / "model-00003-of-00003.safetensors"
    key, tensor = min(load_file(shard.with_name("model-00001-of-00003.safetensors")).items())
    edit(shard, lambda tensors: tensors.update({key: tensor}))

    message = refusal(opened(folder, "sharded"))

    assert message.startswith(f"{shard}: {key}: is in model-00001-of-00003.safetensors as well")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", 3])
def test_index_that_leaves_its_folder_is_refused(folder: Path, name: object) -> None:
    index = folder / "sharded" / "acestep-v15-turbo" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"decoder.norm_out.weight": name}}))

    with pytest.raises(CheckpointError, match=r"decoder\.norm_out\.weight: .* not the name of a file"):
        opened(folder, "sharded")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}])
def test_index_of_another_form_is_refused(folder: Path, index: object) -> None:
    path = folder / "sharded" / "acestep-v15-turbo" / "model.safetensors.index.json"
    path.write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: weight_map is"):
        opened(folder, "sharded")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("pipeline/transformer/config.json", {"num_attention_heads": "four"}),
        ("pipeline/transformer/config.json", {"hidden_size": -64, "encoder_hidden_size": 64}),
        ("pipeline/vae/config.json", {"channel_multiples": [1]}),
        ("pipeline/text_encoder/config.json", {"model_type": "qwen2"}),
        ("pipeline/text_encoder/config.json", {"num_hidden_layers": "two"}),
    ],
)
def test_config_that_describes_no_module_is_named(
    folder: Path, file: str, changes: dict[str, object]
) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    with pytest.raises(CheckpointError, match=rf"{file}: does not describe a {path.parent.name}: "):
        verify(opened(folder, "pipeline"))


def test_settings_of_newer_files_are_named_and_ignored(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "pipeline" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_new_thing": True}))

    assert verify(opened(folder, "pipeline"))
    assert f"{path}: settings without an effect: use_new_thing" in caplog.text
