"""When two checkpoints count as the same for a stage."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.likeness import architecture_of, have_same_weights
from scripts.random_checkpoint import write_checkpoint

ENCODERS = ("text_encoder", "condition_encoder")
ALL = (*ENCODERS, "transformer", "vae", "audio_tokenizer")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pristine") / "one")


@pytest.fixture
def one(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "one")


@pytest.fixture
def other(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "other")


def are_same(one: Path, other: Path, *names: str) -> bool:
    mine, theirs = (open_checkpoint(path, checkpoints_dir=path.parent) for path in (one, other))
    return have_same_weights(mine, theirs, names)


def are_alike(one: Path, other: Path, *names: str) -> bool:
    mine, theirs = (open_checkpoint(path, checkpoints_dir=path.parent) for path in (one, other))
    return architecture_of(mine, names) == architecture_of(theirs, names)


def weights_of(folder: Path, component: str) -> Path:
    (found,) = (folder / component).glob("*.safetensors")
    return found


def test_copies_and_links_are_the_same(one: Path, other: Path) -> None:
    assert are_same(one, other, *ALL)
    shutil.rmtree(other / "vae")
    (other / "vae").symlink_to(one / "vae")
    assert are_same(one, other, *ALL)


@pytest.mark.parametrize("position", [-1, -8_000])
def test_one_byte_tells_the_component_apart_that_it_is_in(one: Path, other: Path, position: int) -> None:
    with weights_of(other, "vae").open("r+b") as file:
        file.seek(position, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(position, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    assert not are_same(one, other, "vae")
    assert are_same(one, other, "transformer", *ENCODERS)
    assert are_alike(one, other, *ALL)


def test_settings_tell_apart_unless_they_only_say_where_the_component_comes_from(
    one: Path, other: Path
) -> None:
    config = other / "transformer" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "_name_or_path": "elsewhere"}))
    assert are_same(one, other, "transformer")
    config.write_text(json.dumps({**values, "sliding_window": 17}))
    assert not are_same(one, other, "transformer")
    assert not are_alike(one, other, "transformer")
    assert are_alike(one, other, "vae")


def test_the_rate_of_latent_frames_tells_all_components_apart(one: Path, other: Path) -> None:
    config = other / "vae" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "downsampling_ratios": [2, *values["downsampling_ratios"]]}))
    assert not are_alike(one, other, "text_encoder")
    assert not are_same(one, other, "text_encoder")


def test_the_tokenizer_is_a_part_of_the_text_encoder(one: Path, other: Path) -> None:
    tokenizer = other / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert not are_same(one, other, "text_encoder")
    assert are_same(one, other, "condition_encoder", "transformer", "vae")


def test_a_component_that_only_one_of_them_has_tells_them_apart(one: Path, other: Path) -> None:
    shutil.rmtree(other / "audio_tokenizer")
    assert not are_same(one, other, "vae", "audio_tokenizer")
    assert are_same(one, other, "vae")
    shutil.rmtree(one / "audio_tokenizer")
    assert are_same(one, other, "vae", "audio_tokenizer")


def test_variants_of_one_root_share_what_is_beside_them(tmp_path: Path) -> None:
    turbo = write_checkpoint(tmp_path / "root", layout="original")
    base = shutil.copytree(
        write_checkpoint(tmp_path / "other", layout="original", variant="base", seed=1),
        turbo.parent / "acestep-v15-base",
    )
    assert are_same(turbo, base, "vae")
    assert are_same(turbo, base, "text_encoder")
    assert not are_same(turbo, base, *ENCODERS)
    assert not are_same(turbo, base, "transformer")
    assert are_alike(turbo, base, *ENCODERS)
