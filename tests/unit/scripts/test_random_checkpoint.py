"""The random checkpoints: reproducible, loadable by diffusers, and with outputs that tests can rely on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline
from safetensors.torch import load_file

from acestage.checkpoints import loading, open_checkpoint
from acestage.checkpoints.opening import EMBEDDED_PATH
from scripts.random_checkpoint import __main__, write_checkpoint

# Of torch, about what the VAE of diffusers is built on.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def pipeline() -> AceStepPipeline:
    pipeline = AceStepPipeline.from_pretrained(EMBEDDED_PATH)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by more threads, and much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}.{key}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for key, tensor in load_file(path).items()
    }


def generate(pipeline: AceStepPipeline, output_type: str = "latent", **changes: Any) -> torch.Tensor:
    request = {
        "prompt": "a calm piano piece",
        "lyrics": "[Verse]\nThe river and the open sky",
        "audio_duration": 2.0,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        **changes,
    }
    generator = torch.Generator().manual_seed(0)
    audios = pipeline(generator=generator, output_type=output_type, **request).audios
    assert isinstance(audios, torch.Tensor)
    return audios


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, by norms."""
    return ((one - other).norm() / one.norm()).item()


def test_embedded_checkpoint_is_what_the_script_writes(tmp_path: Path) -> None:
    written = tensors_in(write_checkpoint(tmp_path / "tiny-turbo"))
    embedded = tensors_in(EMBEDDED_PATH)

    assert written.keys() == embedded.keys()
    for key, tensor in embedded.items():
        torch.testing.assert_close(written[key], tensor, rtol=0, atol=1e-6, msg=key)
    for config in ("transformer", "condition_encoder", "vae", "text_encoder"):
        fresh, kept = (
            json.loads((folder / config / "config.json").read_text())
            for folder in (tmp_path / "tiny-turbo", EMBEDDED_PATH)
        )
        assert {**fresh, "_diffusers_version": None} == {**kept, "_diffusers_version": None}


def test_embedded_tokenizer_is_what_the_script_writes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny-turbo")
    text = "A warm acoustic folk song\n[Chorus] sing with me"
    fresh, kept = (
        loading.load_tokenizer(open_checkpoint(path, checkpoints_dir=tmp_path))
        for path in (tmp_path / "tiny-turbo", EMBEDDED_PATH)
    )

    assert fresh(text).input_ids == kept(text).input_ids


def test_embedded_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED_PATH.rglob("*") if path.is_file()) < 6_000_000


def test_other_seed_gives_other_weights(tmp_path: Path) -> None:
    one = tensors_in(write_checkpoint(tmp_path / "one", seed=1))
    two = tensors_in(write_checkpoint(tmp_path / "two", seed=2))

    assert all(not torch.equal(tensor, two[key]) for key, tensor in one.items())


def test_command_line_says_what_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--size tiny-xl --variant base --layout original --dtype bfloat16 --shards 2 --seed 5"
    monkeypatch.setattr(sys, "argv", ["random_checkpoint", str(tmp_path / "root"), *words.split()])

    __main__.main()

    folder = tmp_path / "root" / "acestep-v15-xl-base"
    assert capsys.readouterr().out.strip() == str(folder)
    summaries = loading.verify(open_checkpoint(folder, checkpoints_dir=tmp_path))
    assert {dtype for summary in summaries for dtype in summary.dtypes} == {"BF16"}


def test_pipeline_of_diffusers_makes_audio_of_it(pipeline: AceStepPipeline) -> None:
    audio = generate(pipeline, output_type="pt")

    assert audio.shape == (1, 2, 96_000)
    assert audio.isfinite().all()
    assert audio.std() > 0.01
    assert audio.mean(dim=-1).abs().max() < 0.01
    assert difference(audio[0, 0], audio[0, 1]) > 0.1


def test_pipeline_of_diffusers_loads_the_same_weights(pipeline: AceStepPipeline, tmp_path: Path) -> None:
    checkpoint = open_checkpoint("tiny-turbo", checkpoints_dir=tmp_path)

    for name in ("transformer", "condition_encoder", "text_encoder", "audio_tokenizer"):
        module = loading.load_component(checkpoint, name)
        for key, tensor in getattr(pipeline, name).state_dict().items():
            assert torch.equal(module.state_dict()[key], tensor), f"{name}.{key}"


def test_latents_neither_vanish_nor_explode(pipeline: AceStepPipeline) -> None:
    latents = generate(pipeline)

    assert 0.5 < latents.std() < 5
    assert latents.std(dim=1).min() > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a loud organ piece"},
        {"lyrics": "[Verse]\nThe river and the open road"},
        {"bpm": 120},
        {"num_inference_steps": 5},
        {"shift": 1.0},
    ],
)
def test_latents_depend_on(pipeline: AceStepPipeline, changes: dict[str, Any]) -> None:
    assert difference(generate(pipeline), generate(pipeline, **changes)) > 0.02


def test_decoder_output_has_a_peak_of_about_one(pipeline: AceStepPipeline) -> None:
    latents = torch.randn(1, 8, 50, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        audio = pipeline.vae.decode(latents).sample

    assert 0.1 < audio.abs().max() < 2


def test_codes_of_latents_differ(pipeline: AceStepPipeline) -> None:
    latents = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        _, codes = pipeline.audio_tokenizer.tokenize(latents)

    assert len(codes.unique()) > 10
