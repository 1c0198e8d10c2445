from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acestage.checkpoints import Layout, ModelFacts, list_local, open_checkpoint, open_checkpoints
from acestage.checkpoints.configs import ConfigFile
from acestage.errors import CheckpointError, FailedPreconditionError
from scripts.random_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with a pipeline, and a root with one variant."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "pipeline", variant="base")
    write_checkpoint(folder / "root", layout="original")
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "checkpoints")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_from_json(path: Path, key: str) -> None:
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))


def add_variant(root: Path, name: str, **changes: object) -> Path:
    variant = shutil.copytree(root / "acestep-v15-turbo", root / name)
    edit_json(variant / "config.json", **changes)
    return variant


def test_facts_of_a_pipeline(pristine: Path) -> None:
    checkpoint = open_checkpoint("pipeline", checkpoints_dir=pristine)

    assert checkpoint.layout is Layout.DIFFUSERS
    assert checkpoint.path == pristine / "pipeline"
    assert checkpoint.model == ModelFacts(
        name="pipeline",
        is_turbo=False,
        latent_channel_count=8,
        latent_frame_rate_hz=25.0,
        sample_rate_hz=48000,
        hop_sample_count=1920,
        audio_channel_count=2,
        condition_width=64,
        is_untrained=True,
        knows_tracks=True,
        audio_code_count=64_000,
        frames_per_audio_code=5,
    )


def test_facts_of_a_variant(pristine: Path) -> None:
    checkpoint = open_checkpoint(pristine / "root", checkpoints_dir=pristine)

    assert checkpoint.layout is Layout.ORIGINAL
    assert checkpoint.path == pristine / "root" / "acestep-v15-turbo"
    assert checkpoint.tokenizer_path == pristine / "root" / "Qwen3-Embedding-0.6B"
    assert checkpoint.model.name == checkpoint.name == "acestep-v15-turbo"
    assert checkpoint.model.is_turbo
    assert checkpoint.model.is_untrained


def test_embedded_checkpoint_needs_no_folder(tmp_path: Path) -> None:
    checkpoint = open_checkpoint("tiny-turbo", checkpoints_dir=tmp_path / "none")

    assert checkpoint.name == "tiny-turbo"
    assert checkpoint.model.is_turbo
    assert checkpoint.model.is_untrained


def test_checkpoint_without_the_mark_counts_as_trained(folder: Path) -> None:
    drop_from_json(folder / "pipeline" / "model_index.json", "acestage_untrained")

    assert not open_checkpoint("pipeline", checkpoints_dir=folder).model.is_untrained


def test_folder_of_a_variant_finds_its_root(pristine: Path) -> None:
    by_root = open_checkpoint(pristine / "root", checkpoints_dir=pristine)

    assert open_checkpoint(pristine / "root" / "acestep-v15-turbo", checkpoints_dir=pristine) == by_root


def test_linked_variant_uses_the_root_of_the_link(folder: Path, tmp_path: Path) -> None:
    moved = (folder / "root" / "acestep-v15-turbo").rename(tmp_path / "elsewhere")
    (folder / "root" / "acestep-v15-sft").symlink_to(moved)

    checkpoint = open_checkpoint(folder / "root", checkpoints_dir=folder)

    assert checkpoint.name == "acestep-v15-sft"


def test_published_name_finds_its_folder(folder: Path) -> None:
    add_variant(folder / "root", "acestep-v15-base")

    checkpoint = open_checkpoint("base", checkpoints_dir=folder / "root")

    assert checkpoint.path == folder / "root" / "acestep-v15-base"


def test_turbo_is_the_variant_if_none_is_named(folder: Path) -> None:
    add_variant(folder / "root", "acestep-v15-base")

    assert open_checkpoint("root", checkpoints_dir=folder).name == "acestep-v15-turbo"


def test_named_variant_is_used(folder: Path) -> None:
    add_variant(folder / "root", "acestep-v15-base", is_turbo=False, model_version="base")

    checkpoint = open_checkpoint("root", checkpoints_dir=folder, variant="acestep-v15-base")

    assert checkpoint.name == "acestep-v15-base"
    assert not checkpoint.model.is_turbo


def test_several_variants_without_turbo_must_be_named(folder: Path) -> None:
    (folder / "root" / "acestep-v15-turbo").rename(folder / "root" / "acestep-v15-base")
    shutil.copytree(folder / "root" / "acestep-v15-base", folder / "root" / "acestep-v15-sft")

    with pytest.raises(CheckpointError, match=r"name the variant.*acestep-v15-base, acestep-v15-sft"):
        open_checkpoint("root", checkpoints_dir=folder)


@pytest.mark.parametrize("variant", ["acestep-v15-sft", "../root/acestep-v15-turbo"])
def test_variant_that_is_not_there_is_refused(pristine: Path, variant: str) -> None:
    with pytest.raises(CheckpointError, match=r"has no variant .*it has: acestep-v15-turbo"):
        open_checkpoint("root", checkpoints_dir=pristine, variant=variant)


def test_variant_that_contradicts_the_path_is_refused(pristine: Path) -> None:
    path = pristine / "root" / "acestep-v15-turbo"

    with pytest.raises(CheckpointError, match=r"acestep-v15-sft is asked for"):
        open_checkpoint(path, checkpoints_dir=pristine, variant="acestep-v15-sft")


def test_missing_checkpoint_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("base", checkpoints_dir=tmp_path)

    assert str(tmp_path / "acestep-v15-base") in caught.value.message
    assert caught.value.message.endswith("; download it with: acestage models pull base")


def test_a_name_that_no_checkpoint_has_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"accepted: a folder, tiny-turbo, turbo, base, .*xl-turbo"):
        open_checkpoint("trubo", checkpoints_dir=tmp_path)


def test_other_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a checkpoint: expected model_index\.json"):
        open_checkpoint(tmp_path, checkpoints_dir=tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "pipeline/transformer/config.json",
        "pipeline/transformer/diffusion_pytorch_model.safetensors",
        "pipeline/condition_encoder/diffusion_pytorch_model.safetensors",
        "pipeline/vae/config.json",
        "pipeline/text_encoder/model.safetensors",
        "pipeline/tokenizer/tokenizer.json",
        "root/acestep-v15-turbo/model.safetensors",
        "root/acestep-v15-turbo/silence_latent.pt",
        "root/vae/config.json",
        "root/vae/diffusion_pytorch_model.safetensors",
        "root/Qwen3-Embedding-0.6B/config.json",
        "root/Qwen3-Embedding-0.6B/model.safetensors",
        "root/Qwen3-Embedding-0.6B/tokenizer.json",
    ],
)
def test_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(file.split("/")[0], checkpoints_dir=folder)

    assert str(folder / file) in caught.value.message
    assert "not found" in caught.value.message


def test_audio_tokenizers_are_optional_in_a_pipeline(folder: Path) -> None:
    shutil.rmtree(folder / "pipeline" / "audio_tokenizer")
    shutil.rmtree(folder / "pipeline" / "audio_token_detokenizer")

    checkpoint = open_checkpoint("pipeline", checkpoints_dir=folder)

    with pytest.raises(CheckpointError, match=r"has no audio_tokenizer; it has: transformer"):
        checkpoint.component("audio_tokenizer")


@pytest.mark.parametrize(
    ("changes", "found", "accepted"),
    [
        ({"model_type": "qwen3"}, "'qwen3'", "acestep"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "Qwen3ForCausalLM", "AceStepConditionGenerationModel"),
        ({"model_version": "lite"}, "'lite'", "turbo, base, sft"),
        ({"model_version": 2}, "2", "turbo, base, sft"),
    ],
)
def test_unknown_variant_is_refused(
    folder: Path, changes: dict[str, object], found: str, accepted: str
) -> None:
    config = folder / "root" / "acestep-v15-turbo" / "config.json"
    edit_json(config, **changes)

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("root", checkpoints_dir=folder)

    assert caught.value.message.startswith(f"{config}: unknown variant: ")
    assert found in caught.value.message
    assert accepted in caught.value.message


@pytest.mark.parametrize(
    ("version", "is_turbo"),
    [("turbo", True), ("xl_turbo", True), ("turbo_shift3", True), ("xl-base", False), ("sft", False)],
)
def test_version_tells_whether_a_variant_is_turbo(folder: Path, version: str, is_turbo: bool) -> None:
    edit_json(folder / "root" / "acestep-v15-turbo" / "config.json", model_version=version, is_turbo=None)

    assert open_checkpoint("root", checkpoints_dir=folder).model.is_turbo is is_turbo


def test_variant_without_family_fields_is_taken_as_it_is(folder: Path) -> None:
    config = folder / "root" / "acestep-v15-turbo" / "config.json"
    for key in ("model_type", "architectures", "model_version", "is_turbo", "layer_types"):
        drop_from_json(config, key)

    assert not open_checkpoint("root", checkpoints_dir=folder).model.is_turbo


@pytest.mark.parametrize(
    ("file", "accepted"),
    [
        ("model_index.json", "AceStepPipeline"),
        ("transformer/config.json", "AceStepTransformer1DModel"),
        ("vae/config.json", "AutoencoderOobleck"),
    ],
)
def test_other_pipeline_is_refused(folder: Path, file: str, accepted: str) -> None:
    edit_json(folder / "pipeline" / file, _class_name="FluxPipeline")

    with pytest.raises(CheckpointError, match=rf"{file}: unknown variant.*'FluxPipeline'.*{accepted}"):
        open_checkpoint("pipeline", checkpoints_dir=folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"'])
def test_damaged_config_is_named(folder: Path, text: str) -> None:
    config = folder / "pipeline" / "vae" / "config.json"
    config.write_text(text)

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("pipeline", checkpoints_dir=folder)

    assert str(config) in caught.value.message


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("pipeline/vae/config.json", "sampling_rate", "48000"),
        ("pipeline/vae/config.json", "downsampling_ratios", [2, 0]),
        ("pipeline/vae/config.json", "downsampling_ratios", [2, 4, 5]),
        ("pipeline/transformer/config.json", "audio_acoustic_hidden_dim", 0),
        ("root/acestep-v15-turbo/config.json", "num_lyric_encoder_hidden_layers", None),
        ("root/acestep-v15-turbo/config.json", "layer_types", ["full_attention"]),
        ("root/acestep-v15-turbo/config.json", "use_sliding_window", False),
    ],
)
def test_setting_of_a_wrong_kind_is_named(folder: Path, file: str, key: str, value: object) -> None:
    edit_json(folder / file, **{key: value})

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(file.split("/")[0], checkpoints_dir=folder)

    assert f"{folder / file}: {key} is " in caught.value.message


@pytest.mark.parametrize(
    ("key", "value", "accepted"), [("sampling_rate", 44_100, 48_000), ("audio_channels", 1, 2)]
)
@pytest.mark.parametrize("file", ["pipeline/vae/config.json", "root/vae/config.json"])
def test_audio_of_another_kind_is_refused(
    folder: Path, file: str, key: str, value: int, accepted: int
) -> None:
    edit_json(folder / file, **{key: value})

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(file.split("/")[0], checkpoints_dir=folder)

    assert caught.value.message == f"{folder / file}: {key} is {value}; accepted: {accepted}"


def test_missing_setting_is_named(folder: Path) -> None:
    config = folder / "root" / "acestep-v15-turbo" / "config.json"
    drop_from_json(config, "fsq_dim")

    with pytest.raises(CheckpointError, match=r"config\.json: fsq_dim is missing"):
        open_checkpoint("root", checkpoints_dir=folder)


def test_parts_that_do_not_fit_are_named(folder: Path) -> None:
    edit_json(folder / "root" / "vae" / "config.json", decoder_input_channels=64)

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("root", checkpoints_dir=folder)

    assert "audio_acoustic_hidden_dim is 8" in caught.value.message
    assert (
        f"decoder_input_channels in {folder / 'root' / 'vae' / 'config.json'} is 64" in caught.value.message
    )


def test_opening_and_reading_headers_imports_neither_torch_nor_the_hub(pristine: Path) -> None:
    code = """
import sys
from pathlib import Path
from acestage.checkpoints import list_local, open_checkpoint
from acestage.checkpoints.stored import stored_tensors
for name in ("pipeline", "root", "tiny-turbo"):
    for component in open_checkpoint(name, checkpoints_dir=Path(sys.argv[1])).components:
        assert stored_tensors(component)
list_local(Path(sys.argv[1]))
print(sorted({"torch", "diffusers", "transformers", "huggingface_hub"} & sys.modules.keys()))
"""

    run = subprocess.run(
        [sys.executable, "-c", code, pristine], capture_output=True, text=True, check=True, timeout=60
    )

    assert run.stdout.strip() == "[]"


def test_list_has_embedded_pipelines_roots_and_variants(folder: Path) -> None:
    shutil.copytree(folder / "root", folder, dirs_exist_ok=True)

    found = {local.name: local for local in list_local(folder)}

    assert list(found) == ["tiny-turbo", "acestep-v15-turbo", "pipeline", "root"]
    assert found["pipeline"].layout is Layout.DIFFUSERS
    assert found["root"].path == folder / "root" / "acestep-v15-turbo"
    assert all(local.problem is None and local.byte_count > 1_000_000 for local in found.values())


def test_list_says_what_is_wrong_with_a_folder(folder: Path) -> None:
    weights = folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.unlink()

    found = {local.name: local for local in list_local(folder)}

    assert str(weights) in (found["pipeline"].problem or "")
    assert found["pipeline"].layout is None


def test_list_without_a_checkpoints_folder_has_the_embedded_one(tmp_path: Path) -> None:
    assert [local.name for local in list_local(tmp_path / "none")] == ["tiny-turbo"]


def names_of(names: list[str], folder: Path, variant: str | None = None) -> list[str]:
    return [found.name for found in open_checkpoints(names, checkpoints_dir=folder, variant=variant)]


def test_several_are_opened_in_order(folder: Path) -> None:
    assert names_of(["root", "pipeline", "tiny-turbo"], folder) == [
        "acestep-v15-turbo",
        "pipeline",
        "tiny-turbo",
    ]


def test_the_variant_is_for_those_of_several_that_have_more_than_one(folder: Path) -> None:
    shutil.copytree(folder / "root", folder / "rich")
    add_variant(folder / "rich", "acestep-v15-base", is_turbo=False)
    base = "acestep-v15-base"
    assert names_of(["root", "pipeline", "rich"], folder, base) == ["acestep-v15-turbo", "pipeline", base]
    with pytest.raises(CheckpointError, match="has no variant acestep-v15-sft"):
        names_of(["root", "rich"], folder, "acestep-v15-sft")
    with pytest.raises(CheckpointError, match="has no variant acestep-v15-base"):
        names_of(["root"], folder, base)


def test_two_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="are both called acestep-v15-turbo; accepted"):
        names_of(["root", str(folder / "root" / "acestep-v15-turbo")], folder)


def test_settings_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON"):
        ConfigFile.read(tmp_path / "config.json")
