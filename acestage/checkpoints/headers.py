"""Headers of safetensors files, read and checked without reading a weight.

Format: 8 bytes little-endian header size, a JSON object of that size, then the tensors' bytes. `data_offsets`
count from the end of the header (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from acestage.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets as well."""

_SIZE_BYTES = 8
_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file: where it is.
        key: what the tensor is called in the file.
        dtype: the data type in the format's words, such as `BF16`.
        shape: row-major dimensions.
        begin_byte: where its data begins, counted from the end of the header.
        byte_count: bytes of its data.
    """

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    begin_byte: int
    byte_count: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the file `path` by key, after checking that they fill the file exactly.

    Raises:
        CheckpointError: the file is missing, truncated, too long, or not a safetensors file.
    """
    try:
        file_byte_count = path.stat().st_size
        with path.open("rb") as file:
            header_byte_count = int.from_bytes(file.read(_SIZE_BYTES), "little")
            start = _SIZE_BYTES + header_byte_count
            if header_byte_count > MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{path}: not a safetensors file: header of {header_byte_count} bytes,"
                    f" at most {MAX_HEADER_BYTES} are accepted"
                )
            if file_byte_count < start:
                raise CheckpointError(
                    f"{path}: truncated: {file_byte_count} bytes, its header alone needs {start}"
                )
            text = file.read(header_byte_count)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: file not found") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    tensors = {key: _tensor(path, key, entry) for key, entry in _entries(path, text).items()}
    data_byte_count = _filled_byte_count(tensors.values())
    if file_byte_count != start + data_byte_count:
        state = "truncated" if file_byte_count < start + data_byte_count else "too long"
        raise CheckpointError(
            f"{path}: {state}: {file_byte_count} bytes, its header describes {start + data_byte_count}"
        )
    return tensors


def _entries(path: Path, text: bytes) -> dict[str, dict[str, object]]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not JSON: {error}") from error
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise CheckpointError(f"{path}: not a safetensors file: its header is not an object of objects")
    header.pop("__metadata__", None)
    return header


def _tensor(path: Path, key: str, entry: dict[str, object]) -> StoredTensor:
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise CheckpointError(f"{path}: {key}: data type {dtype!r}, expected one of {', '.join(_ITEM_BYTES)}")
    if not _are_sizes(shape):
        raise CheckpointError(f"{path}: {key}: shape {shape!r}, expected a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: {key}: data_offsets {offsets!r}, expected [begin, end]")
    byte_count = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != byte_count:
        raise CheckpointError(
            f"{path}: {key}: {offsets[1] - offsets[0]} bytes, expected {byte_count} for {dtype} {shape}"
        )
    return StoredTensor(path, key, dtype, tuple(shape), offsets[0], byte_count)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _filled_byte_count(tensors: Iterable[StoredTensor]) -> int:
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin_byte, tensor.byte_count)):
        if tensor.begin_byte != end:
            raise CheckpointError(
                f"{tensor.file}: {tensor.key}: begins at byte {tensor.begin_byte} of the data, expected {end}"
            )
        end += tensor.byte_count
    return end
