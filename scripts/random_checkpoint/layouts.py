"""Writes a random checkpoint in the diffusers layout or in the original one, with the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from acestage.checkpoints.checkpoint import Component, WeightFiles
from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
)
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.diffusers_layout import INDEX_FILE, TOKENIZER_FOLDER
from acestage.checkpoints.key_schemes import KeyScheme, file_key
from acestage.checkpoints.modules import build_module
from acestage.checkpoints.opening import UNTRAINED_KEY
from acestage.checkpoints.original_config import ARCHITECTURE, MODEL_TYPE
from acestage.checkpoints.original_layout import SILENCE_LATENT_FILE, TEXT_ENCODER_FOLDER, VAE_FOLDER
from scripts.random_checkpoint.safetensors_writer import TensorToWrite, write_shards
from scripts.random_checkpoint.sizes import Settings, Size, Variant, model_settings
from scripts.random_checkpoint.text_tokenizer import write_tokenizer
from scripts.random_checkpoint.weights import Shapes, random_tensor

LayoutName = Literal["diffusers", "original"]
DTypeName = Literal["float32", "bfloat16"]

_SILENCE_LATENT = "silence_latent"
_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
_TRANSFORMERS_WEIGHTS = "model"
_OWN = (TRANSFORMER, CONDITION_ENCODER, AUDIO_TOKENIZER, AUDIO_TOKEN_DETOKENIZER)
_LIBRARIES = {
    TRANSFORMER: ["diffusers", "AceStepTransformer1DModel"],
    CONDITION_ENCODER: ["diffusers", "AceStepConditionEncoder"],
    AUDIO_TOKENIZER: ["diffusers", "AceStepAudioTokenizer"],
    AUDIO_TOKEN_DETOKENIZER: ["diffusers", "AceStepAudioTokenDetokenizer"],
    VAE: ["diffusers", "AutoencoderOobleck"],
    TEXT_ENCODER: ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}


def write_checkpoint(
    folder: Path,
    *,
    size: Size = "tiny",
    variant: Variant = "turbo",
    layout: LayoutName = "diffusers",
    seed: int = 0,
    dtype: DTypeName = "float32",
    shard_count: int = 1,
) -> Path:
    """Writes a checkpoint with random weights to `folder`, which need not be there.

    Args:
        folder: the pipeline's folder, or the root in the original layout.
        size: `tiny` runs anywhere; `tiny-xl` also has a transformer wider than its encoder; `full` and `xl`
            have the shapes that are published.
        variant: whether the model says that it runs without guidance.
        layout: how to arrange the files.
        seed: the same seed gives the same weights in both layouts.
        dtype: of the weights.
        shard_count: files of the transformer, or of a variant's one model in the original layout.

    Returns:
        The folder to open: of the pipeline, or of the variant.
    """
    settings = model_settings(size, variant)
    torch_dtype = getattr(torch, dtype)
    if layout == "diffusers":
        _write_diffusers(folder, settings, seed, torch_dtype, shard_count)
        return folder
    name = f"acestep-v15-{'xl-' if size.endswith('xl') else ''}{variant}"
    _write_shared(folder, settings, seed, torch_dtype)
    _write_variant(folder / name, settings, seed, torch_dtype, shard_count)
    return folder / name


def _write_diffusers(
    folder: Path, settings: dict[str, Settings], seed: int, dtype: torch.dtype, shard_count: int
) -> None:
    for name in (*_OWN, VAE):
        _made(folder / name)
        _write_config(folder / name, name, settings)
        shards = shard_count if name == TRANSFORMER else 1
        tensors = list(_tensors(name, settings, seed))
        write_shards(folder / name, _DIFFUSERS_WEIGHTS, tensors, dtype, shards)
    _write_text_encoder(_made(folder / TEXT_ENCODER), settings, seed, dtype)
    write_tokenizer(_made(folder / TOKENIZER_FOLDER))
    # The pipeline makes its own schedule of sigmas, which this scheduler takes as they are.
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0).save_config(folder / "scheduler")
    _write_json(folder / INDEX_FILE, {"_class_name": "AceStepPipeline", UNTRAINED_KEY: True, **_LIBRARIES})


def _write_shared(root: Path, settings: dict[str, Settings], seed: int, dtype: torch.dtype) -> None:
    vae = _made(root / VAE_FOLDER)
    _write_config(vae, VAE, settings)
    write_shards(vae, _DIFFUSERS_WEIGHTS, list(_tensors(VAE, settings, seed)), dtype)
    text_encoder = _made(root / TEXT_ENCODER_FOLDER)
    _write_text_encoder(text_encoder, settings, seed, dtype)
    write_tokenizer(text_encoder)


def _write_variant(
    folder: Path, settings: dict[str, Settings], seed: int, dtype: torch.dtype, shard_count: int
) -> None:
    tensors = [
        TensorToWrite(file_key(KeyScheme.ORIGINAL, name, tensor.key), tensor.shape, tensor.make)
        for name in _OWN
        for tensor in _tensors(name, settings, seed)
        if tensor.key != _SILENCE_LATENT
    ]
    write_shards(_made(folder), _TRANSFORMERS_WEIGHTS, tensors, dtype, shard_count)
    shapes = _shapes(CONDITION_ENCODER, settings)
    silence_latent = random_tensor(CONDITION_ENCODER, _SILENCE_LATENT, shapes, seed)
    # Published in fp32 and with channels before frames, whatever the weights are.
    stored = silence_latent.to(dtype).float().transpose(1, 2).contiguous()
    torch.save(stored, folder / SILENCE_LATENT_FILE)
    _write_json(folder / "config.json", _original_config(settings))


def _original_config(settings: dict[str, Settings]) -> Settings:
    transformer, encoder = settings[TRANSFORMER], settings[CONDITION_ENCODER]
    config = {
        **settings[AUDIO_TOKENIZER],
        **encoder,
        **{key: value for key, value in transformer.items() if key != "encoder_hidden_size"},
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "use_sliding_window": True,
        UNTRAINED_KEY: True,
    }
    if encoder["hidden_size"] != transformer["hidden_size"]:
        widths = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        config.update({f"encoder_{key}": encoder[key] for key in widths})
    return config


def _write_config(folder: Path, name: str, settings: dict[str, Settings]) -> None:
    module: Any = _module(name, settings)
    module.save_config(folder)


def _write_text_encoder(folder: Path, settings: dict[str, Settings], seed: int, dtype: torch.dtype) -> None:
    _write_json(folder / "config.json", settings[TEXT_ENCODER])
    write_shards(folder, _TRANSFORMERS_WEIGHTS, list(_tensors(TEXT_ENCODER, settings, seed)), dtype)


def _tensors(name: str, settings: dict[str, Settings], seed: int) -> Iterator[TensorToWrite]:
    shapes = _shapes(name, settings)
    for key, shape in shapes.items():
        yield TensorToWrite(key, shape, partial(random_tensor, name, key, shapes, seed))


def _shapes(name: str, settings: dict[str, Settings]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in _module(name, settings).state_dict().items()}


def _module(name: str, settings: dict[str, Settings]) -> torch.nn.Module:
    config = ConfigFile(Path(f"random {name}"), settings[name])
    return build_module(Component(name, config, WeightFiles(()), KeyScheme.MODULE))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_json(path: Path, values: Settings) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
