"""Writes a LoRA adapter with random weights: `python -m scripts.random_adapter OUT --checkpoint FOLDER`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args
from zlib import crc32

import numpy as np
import torch

from acestage.adapters.adapter import CONFIG_FILE
from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.key_schemes import KeyScheme, file_key
from acestage.checkpoints.stored import stored_tensors
from scripts.random_checkpoint.safetensors_writer import TensorToWrite, write_shards

AdapterFormat = Literal["peft", "diffusers"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that ACE-Step's own training adapts."""

_STRENGTH = 0.3
"""Size of what an adapter adds to a weight, against one that keeps its input's spread."""


def write_adapter(
    path: Path,
    checkpoint: Path,
    *,
    file_format: AdapterFormat = "peft",
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    seed: int = 0,
) -> Path:
    """Writes an adapter for the transformer of `checkpoint`, with the same weights in both formats.

    Args:
        path: "peft": the folder to write; "diffusers": the file, which ends in .safetensors.
        checkpoint: folder of a model.
        file_format: "peft" has the names of the original transformer and PEFT's settings beside the weights;
            "diffusers" those of diffusers in one file.
        rank: of every layer.
        alpha: for PEFT's settings, else the rank; a file of diffusers has none.
        targets: ends of the names, in diffusers' terms, of the layers to adapt.
        seed: the same seed gives the same weights.

    Returns:
        `path`.
    """
    shapes = _shapes(checkpoint, targets)
    tensors = list(_tensors(shapes, file_format, rank, seed))
    if file_format == "diffusers":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_shards(path.parent, path.stem, tensors, torch.float32)
        return path
    path.mkdir(parents=True, exist_ok=True)
    write_shards(path, "adapter_model", tensors, torch.float32)
    names = sorted({_original(module).rsplit(".", 1)[1] for module in shapes})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha or rank, "target_modules": names}
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    return path


def _shapes(checkpoint: Path, targets: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes [outputs, inputs] of the layers' weights, by their names in diffusers."""
    component = open_checkpoint(checkpoint, checkpoints_dir=checkpoint.parent).component(TRANSFORMER)
    return {
        module: tensor.shape
        for key, tensor in stored_tensors(component).items()
        if (module := key.removesuffix(".weight")) != key and module.endswith(tuple(targets))
    }


def _tensors(
    shapes: dict[str, tuple[int, ...]], file_format: AdapterFormat, rank: int, seed: int
) -> Iterator[TensorToWrite]:
    for module, (output_count, input_count) in shapes.items():
        name = (
            f"transformer.{module}" if file_format == "diffusers" else f"base_model.model.{_original(module)}"
        )
        for part, shape, spread in (
            ("A", (rank, input_count), input_count**-0.5),
            ("B", (output_count, rank), _STRENGTH * rank**-0.5),
        ):
            values = partial(_random, f"{module}.{part}", shape, spread, seed)
            yield TensorToWrite(f"{name}.lora_{part}.weight", shape, values)


def _random(name: str, shape: tuple[int, ...], spread: float, seed: int) -> torch.Tensor:
    generator = np.random.default_rng([seed, crc32(name.encode())])
    return torch.from_numpy(spread * generator.standard_normal(shape, dtype=np.float32))


def _original(module: str) -> str:
    key = file_key(KeyScheme.ORIGINAL, TRANSFORMER, f"{module}.weight")
    return key.removeprefix("decoder.").removesuffix(".weight")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.random_adapter", description=__doc__)
    parser.add_argument("out", type=Path, help="folder (peft) or .safetensors file (diffusers) to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the model")
    parser.add_argument("--format", choices=get_args(AdapterFormat), default="peft")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.format == "diffusers" and given.alpha is not None:
        parser.error("--alpha: a file of diffusers has none; accepted: with --format peft")
    print(
        write_adapter(
            given.out,
            given.checkpoint,
            file_format=given.format,
            rank=given.rank,
            alpha=given.alpha,
            seed=given.seed,
        )
    )


if __name__ == "__main__":
    main()
