"""How well the planner predicts: a table of predicted and really allocated bytes. CPU, random weights.

python -m bench.planner_accuracy               the stages with as many layers as matter
python -m bench.planner_accuracy --full        all layers, and songs of up to ten minutes: takes long
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from acestage.planning import MIB, Quantization
from tests.allocations import peak_allocated_bytes
from tests.published_workers import (
    architecture,
    decode,
    denoise,
    encode,
    with_random_weights,
    without_weights,
)

Row = tuple[str, str, str, str, int, int]
"""Model and stage, data type, quantization, work, predicted bytes, allocated bytes."""

_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8")


def main() -> None:
    """Prints a row for each stage, data type and size as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all layers and the longest songs")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), action="append")
    parser.add_argument("--stage", choices=("text_encoder", "dit", "vae"), action="append")
    parser.add_argument("--model", action="append", help="published models; default turbo and base")
    given = parser.parse_args()
    layers = None if given.full else 2
    seconds = (10, 30, 60, 90, 180, 360, 600) if given.full else (10, 30, 60, 90, 180)
    table = Table("stage", "dtype", "quantization", "work", "predicted", "allocated", "difference")
    start = time.monotonic()
    for dtype_name in given.dtype or ("bfloat16", "float32"):
        dtype = getattr(torch, dtype_name)
        for stage in given.stage or ("vae", "text_encoder", "dit"):
            for model in given.model or (("turbo", "base") if stage == "dit" else ("turbo",)):
                for row in _rows(stage, model, layers, seconds, dtype):
                    *names, predicted, allocated = row
                    numbers = f"{predicted / MIB:.1f}", f"{allocated / MIB:.1f}"
                    table.add_row(*names, *numbers, f"{predicted / allocated - 1:+.1%}")
                    print(*names, *numbers, f"{predicted / allocated - 1:+.1%}", flush=True)
    console = Console(width=120)
    console.print(table)
    console.print(f"{torch.get_num_threads()} threads, {time.monotonic() - start:.0f} s")


def _rows(
    stage: str, model: str, layers: int | None, seconds: tuple[int, ...], dtype: torch.dtype
) -> Iterator[Row]:
    checkpoint = architecture(model, layers)
    memory = without_weights(stage, checkpoint).memory(dtype, torch.get_num_threads())
    name, dtype_name = f"{model} {stage}", str(dtype).removeprefix("torch.")
    for quantization in _QUANTIZATIONS:
        if quantization not in memory.weights_bytes:
            continue
        worker = with_random_weights(stage, checkpoint, dtype, quantization)
        if stage == "vae":
            for tile in (8, 16, 32, 64, 96, 128, 256):
                predicted = memory.activation_bytes("tile", tile + 2 * memory.halo_frame_count)
                allocated = peak_allocated_bytes(decode(worker, tile))
                yield name, dtype_name, quantization, f"tile of {tile} frames", predicted, allocated
        elif stage == "text_encoder":
            for duration_s in (30, 600):
                predicted = memory.activation_bytes("encode", 25 * duration_s, quantization)
                allocated = peak_allocated_bytes(encode(worker, 25 * duration_s))
                yield name, dtype_name, quantization, f"{duration_s} s", predicted, allocated
        else:
            for duration_s in seconds:
                for mode in ("single", "guided"):
                    if (mode, quantization) not in memory.activations:
                        continue
                    frames = 25 * duration_s
                    predicted = memory.activation_bytes(mode, frames, quantization)
                    work = denoise(worker, frames, dtype, split=mode == "single")
                    what = f"{duration_s} s, {mode}"
                    yield name, dtype_name, quantization, what, predicted, peak_allocated_bytes(work)


if __name__ == "__main__":
    main()
