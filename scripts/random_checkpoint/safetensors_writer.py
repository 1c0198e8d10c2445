"""Writes safetensors files tensor by tensor, so that a model larger than memory can be written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor that is made when its turn comes."""

    key: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def write_shards(
    folder: Path, stem: str, tensors: Sequence[TensorToWrite], dtype: torch.dtype, shard_count: int = 1
) -> None:
    """Writes `tensors` as `dtype` to `stem.safetensors`, or to shards of about equal size and their index."""
    if shard_count == 1:
        _write(folder / f"{stem}.safetensors", tensors, dtype)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(_split(tensors, shard_count), start=1):
        name = f"{stem}-{number:05d}-of-{shard_count:05d}.safetensors"
        _write(folder / name, shard, dtype)
        weight_map.update((tensor.key, name) for tensor in shard)
    total = sum(_byte_count(tensor, dtype) for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _split(tensors: Sequence[TensorToWrite], shard_count: int) -> Iterator[Sequence[TensorToWrite]]:
    total = sum(math.prod(tensor.shape) for tensor in tensors)
    shards: list[list[TensorToWrite]] = [[] for _ in range(shard_count)]
    before = 0
    for tensor in tensors:
        shards[before * shard_count // total].append(tensor)
        before += math.prod(tensor.shape)
    if not all(shards):
        raise ValueError(f"{len(tensors)} tensors do not fill {shard_count} shards")
    yield from shards


def _write(path: Path, tensors: Sequence[TensorToWrite], dtype: torch.dtype) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + _byte_count(tensor, dtype)
        header[tensor.key] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors are mapped, so their data must begin at a multiple of the item size.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            data = tensor.make().to(dtype).contiguous()
            data.view(torch.uint8).numpy().tofile(file)


def _byte_count(tensor: TensorToWrite, dtype: torch.dtype) -> int:
    return math.prod(tensor.shape) * dtype.itemsize
