from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestage.checkpoints import Checkpoint, loading, open_checkpoint
from acestage.checkpoints.component_names import OPTIONAL, REQUIRED, VAE
from acestage.errors import CheckpointError
from scripts.random_checkpoint import write_checkpoint

LOADERS: dict[str, Callable[[Checkpoint], torch.nn.Module]] = {
    **{name: partial(loading.load_component, name=name) for name in (*REQUIRED, *OPTIONAL) if name != VAE},
    "decoder": loading.load_decoder,
    "encoder": loading.load_encoder,
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "pipeline", seed=3)
    write_checkpoint(folder / "root", seed=3, layout="original")
    write_checkpoint(folder / "sharded", seed=3, layout="original", shard_count=4)
    write_checkpoint(folder / "sharded-pipeline", seed=3, shard_count=2)
    write_checkpoint(folder / "xl", seed=3, size="tiny-xl", variant="base")
    write_checkpoint(folder / "xl-root", seed=3, size="tiny-xl", variant="base", layout="original")
    write_checkpoint(folder / "bf16", seed=3, dtype="bfloat16", layout="original")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by more threads, and much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(folder: Path, name: str) -> Checkpoint:
    return open_checkpoint(name, checkpoints_dir=folder)


def run(name: str, module: torch.nn.Module) -> torch.Tensor:
    """An output of the module for inputs that are always the same."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tokens = torch.arange(12).reshape(2, 6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    time = torch.tensor([0.5, 0.7])
    with torch.inference_mode():
        match name:
            case "transformer":
                output = module(noise(2, 50, 8), time, time, noise(2, 7, 64), noise(2, 50, 16)).sample
            case "condition_encoder":
                silence = module.get_buffer("silence_latent")[:, :50].expand(2, -1, -1)
                output, _ = module(noise(2, 6, 64), mask, noise(2, 6, 64), mask, silence, torch.arange(2))
            case "text_encoder":
                output = module(input_ids=tokens).last_hidden_state
            case "decoder":
                output = module(noise(2, 8, 3))
            case "audio_tokenizer":
                output, _ = module(noise(2, 4, 5, 8))
            case "encoder":
                output = module(noise(1, 2, 2 * 1920))
            case _:
                output = module(noise(2, 4, 64))
    assert isinstance(output, torch.Tensor)
    return output


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("other", ["root", "sharded", "sharded-pipeline"])
def test_every_arrangement_of_files_gives_the_same_module(folder: Path, name: str, other: str) -> None:
    expected = LOADERS[name](opened(folder, "pipeline"))
    module = LOADERS[name](opened(folder, other))

    assert list(module.state_dict()) == list(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert torch.equal(module.state_dict()[key], tensor), key
    assert torch.equal(run(name, module), run(name, expected))


@pytest.mark.parametrize("name", LOADERS)
def test_model_with_a_wider_transformer_loads_from_both_layouts(folder: Path, name: str) -> None:
    expected = LOADERS[name](opened(folder, "xl"))
    module = LOADERS[name](opened(folder, "xl-root"))

    assert {key: tensor.shape for key, tensor in module.state_dict().items()} == {
        key: tensor.shape for key, tensor in expected.state_dict().items()
    }
    assert torch.equal(run(name, module), run(name, expected))


def test_transformer_of_an_xl_model_takes_the_narrower_conditions(folder: Path) -> None:
    transformer = loading.load_component(opened(folder, "xl-root"), "transformer")

    assert transformer.condition_embedder.weight.shape == (96, 64)


@pytest.mark.parametrize("name", LOADERS)
def test_modules_are_ready_to_run(folder: Path, name: str) -> None:
    module = LOADERS[name](opened(folder, "root"))

    assert not module.training
    assert all(not t.is_meta for t in chain(module.parameters(), module.buffers()))
    assert run(name, module).isfinite().all()


@pytest.mark.parametrize("name", LOADERS)
def test_values_are_those_of_the_file(folder: Path, name: str) -> None:
    files = {"decoder": "vae", "encoder": "vae", "text_encoder": "text_encoder/model.safetensors"}
    path = folder / "pipeline" / files.get(name, name)
    stored = load_file(path if path.is_file() else path / "diffusion_pytorch_model.safetensors")
    prefix = f"{name}." if name in ("decoder", "encoder") else ""

    state = LOADERS[name](opened(folder, "pipeline")).state_dict()

    assert state.keys() == {key.removeprefix(prefix) for key in stored if key.startswith(prefix)}
    assert all(torch.equal(tensor, stored[prefix + key]) for key, tensor in state.items())


@pytest.mark.parametrize("name", LOADERS)
def test_weights_keep_the_data_type_of_the_file(folder: Path, name: str) -> None:
    module = LOADERS[name](opened(folder, "bf16"))

    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_derived_buffers_are_those_of_an_ordinary_module(folder: Path) -> None:
    text_encoder = loading.load_component(opened(folder, "root"), "text_encoder")
    quantizer = loading.load_component(opened(folder, "root"), "audio_tokenizer").quantizer

    expected = 1 / 1e6 ** (torch.arange(0, 16, 2) / 16)
    assert torch.allclose(text_encoder.rotary_emb.inv_freq, expected)
    assert quantizer._levels.tolist() == [8, 8, 8, 5, 5, 5]
    assert quantizer._basis.tolist() == [1, 8, 64, 512, 2560, 12800]
    assert quantizer.scales.tolist() == [[1.0] * 6]
    assert quantizer.codebook_size == 64_000
    tokenizer = loading.load_component(opened(folder, "root"), "audio_tokenizer")
    assert "quantizer._levels" not in tokenizer.state_dict()


def test_decoder_does_not_map_the_encoder(folder: Path) -> None:
    decoder = loading.load_decoder(opened(folder, "pipeline"))

    assert type(decoder).__name__ == "OobleckDecoder"
    stored = load_file(folder / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors")
    assert len(decoder.state_dict()) == sum(key.startswith("decoder.") for key in stored)


def test_silence_of_the_original_layout_has_frames_before_channels(folder: Path) -> None:
    stored = torch.load(folder / "root" / "acestep-v15-turbo" / "silence_latent.pt", weights_only=True)

    silence = loading.load_component(opened(folder, "root"), "condition_encoder").silence_latent

    assert stored.shape == (1, 8, 15000)
    assert silence.is_contiguous()
    assert torch.equal(silence, stored.transpose(1, 2))


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("head", [True, False])
def test_text_encoder_loads_from_a_language_model_file(
    folder: Path, tmp_path: Path, prefix: str, head: bool
) -> None:
    expected = loading.load_component(opened(folder, "root"), "text_encoder")
    root = shutil.copytree(folder / "root", tmp_path / "root")
    path = root / "Qwen3-Embedding-0.6B" / "model.safetensors"
    tensors = {prefix + key: tensor for key, tensor in load_file(path).items()}
    if head:
        tensors["lm_head.weight"] = tensors[f"{prefix}embed_tokens.weight"].clone()
    save_file(tensors, path, {"format": "pt"})

    module = loading.load_component(opened(tmp_path, "root"), "text_encoder")

    assert torch.equal(run("text_encoder", module), run("text_encoder", expected))


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


def zipped_pickle(path: Path) -> None:
    torch.save({"silence": Bomb()}, path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))


@pytest.mark.parametrize("plant", [zipped_pickle, plain_pickle])
@pytest.mark.parametrize("use", [LOADERS["condition_encoder"], loading.verify])
def test_code_in_the_silence_file_is_refused_and_not_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Path], None],
    use: Callable[[Checkpoint], object],
) -> None:
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(folder / "root", tmp_path / "root")
    path = root / "acestep-v15-turbo" / "silence_latent.pt"
    plant(path)

    with pytest.raises(CheckpointError) as caught:
        use(opened(tmp_path, "root"))

    assert caught.value.message.startswith(f"{path}: cannot be read as a tensor")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(1, 15000, 8), r"shape \[1, 15000, 8\], expected \[1, 8, 15000\]"),
        (torch.zeros(1, 64, 15000), r"shape \[1, 64, 15000\], expected \[1, 8, 15000\]"),
        (torch.zeros(1, 8, 15000, dtype=torch.int64), r"holds a tensor of torch\.int64"),
        ({"silence": torch.zeros(1)}, r"holds dict"),
    ],
)
def test_other_content_of_the_silence_file_is_named(
    folder: Path, tmp_path: Path, content: object, found: str
) -> None:
    root = shutil.copytree(folder / "root", tmp_path / "root")
    torch.save(content, root / "acestep-v15-turbo" / "silence_latent.pt")

    with pytest.raises(CheckpointError, match=rf"silence_latent\.pt: {found}"):
        loading.load_component(opened(tmp_path, "root"), "condition_encoder")


def test_truncated_silence_file_is_named(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder / "root", tmp_path / "root")
    path = root / "acestep-v15-turbo" / "silence_latent.pt"
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(CheckpointError, match=r"silence_latent\.pt: cannot be read as a tensor"):
        loading.load_component(opened(tmp_path, "root"), "condition_encoder")


@pytest.mark.parametrize("name", ["pipeline", "root"])
def test_tokenizer_gives_any_text_back(folder: Path, name: str) -> None:
    tokenizer = loading.load_tokenizer(opened(folder, name))
    text = "Grüße, 世界! \u202e🎵\n\t# Lyric\n  [Verse]\x00"

    encoded = tokenizer([text, "short<|endoftext|>"], padding="longest")

    assert tokenizer.decode(tokenizer(text).input_ids) == text
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == end
    assert encoded.input_ids[1][sum(encoded.attention_mask[1]) - 1] == end


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("Qwen3-Embedding-0.6B/config.json", {"rms_norm_eps": None}),
        ("Qwen3-Embedding-0.6B/tokenizer_config.json", {"tokenizer_class": 5}),
        ("Qwen3-Embedding-0.6B/tokenizer_config.json", {"pad_token": 5}),
    ],
)
def test_a_wrong_setting_beside_the_tokenizer_is_named(
    folder: Path, tmp_path: Path, file: str, change: dict[str, object]
) -> None:
    root = shutil.copytree(folder / "root", tmp_path / "root")
    path = root / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=r"Qwen3-Embedding-0\.6B: not a tokenizer: "):
        loading.load_tokenizer(opened(tmp_path, "root"))


def test_damaged_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    pipeline = shutil.copytree(folder / "pipeline", tmp_path / "pipeline")
    (pipeline / "tokenizer" / "tokenizer.json").write_text("{")

    with pytest.raises(CheckpointError, match=rf"{pipeline / 'tokenizer'}: not a tokenizer"):
        loading.load_tokenizer(opened(tmp_path, "pipeline"))


def anonymous_byte_count() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def mapped_file(address: int) -> str:
    """The file that is mapped at `address`."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *fields = line.split()
        begin, end = (int(bound, 16) for bound in span.split("-"))
        if begin <= address < end:
            return fields[-1]
    return ""


def make_large(pipeline: Path, vocabulary_size: int) -> Path:
    """Replaces the text encoder by one of zeros, whose file takes no space on the disk."""
    config = pipeline / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": vocabulary_size}))
    path = pipeline / "text_encoder" / "model.safetensors"
    shapes = {key: list(tensor.shape) for key, tensor in load_file(path).items()}
    shapes["embed_tokens.weight"] = [vocabulary_size, 64]
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + end)
    return path


def test_weights_are_a_mapped_file_without_a_copy(folder: Path, tmp_path: Path) -> None:
    pipeline = shutil.copytree(folder / "pipeline", tmp_path / "pipeline")
    path = make_large(pipeline, vocabulary_size=2_000_000)
    loading.load_component(opened(folder, "pipeline"), "text_encoder")
    before = anonymous_byte_count()

    module = loading.load_component(opened(tmp_path, "pipeline"), "text_encoder")
    touched = module.embed_tokens.weight.detach()[::16].sum().item()

    assert touched == 0
    assert path.stat().st_size > 500_000_000
    assert anonymous_byte_count() - before < 24 * MIB
    assert {mapped_file(parameter.data_ptr()) for parameter in module.parameters()} == {str(path)}
