"""Which tensors a component has in its files, and whether they are those that its module needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from acestage.checkpoints.checkpoint import Component
from acestage.checkpoints.headers import StoredTensor, read_header
from acestage.checkpoints.key_schemes import file_key, module_key
from acestage.checkpoints.weight_files import read_weight_map
from acestage.errors import CheckpointError
from acestage.naming import first_names

_TORCH_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
ACCEPTED_DTYPES = tuple(_TORCH_DTYPES)
"""Data types of weights, in the words of safetensors; quantised files are of another kind."""

_NAMED_COUNT = 3


def stored_tensors(component: Component) -> dict[str, StoredTensor]:
    """The tensors of `component` by their keys in its module; reads the headers of all its files.

    Raises:
        CheckpointError: a file is missing or damaged, lacks a key that the index puts there, or two files
            have the same key.
    """
    found: dict[str, StoredTensor] = {}
    for shard, header in _headers(component).items():
        for tensor in header.values():
            key = module_key(component.scheme, component.name, tensor.key)
            if key is None:
                continue
            if key in found:
                other = found[key]
                raise CheckpointError(
                    f"{shard}: {tensor.key}: is in {other.file.name} as well, as {other.key}"
                )
            found[key] = tensor
    return found


def stored_dtype(component: Component) -> str:
    """The data type of the first of its tensors, in the words of torch; reads headers only.

    Raises:
        CheckpointError: a file is missing or damaged, or the type is none of weights.
    """
    tensor = next(iter(stored_tensors(component).values()))
    if tensor.dtype not in _TORCH_DTYPES:
        accepted = " or ".join(ACCEPTED_DTYPES)
        raise CheckpointError(f"{tensor.file}: {tensor.key}: is {tensor.dtype}; accepted: {accepted}")
    return _TORCH_DTYPES[tensor.dtype]


def check_tensors(
    component: Component, tensors: Mapping[str, StoredTensor], expected: Mapping[str, Sequence[int]]
) -> None:
    """Checks that `tensors` are exactly those of `expected`, which gives shapes by key of the module.

    Raises:
        CheckpointError: names the file and the first keys that are missing, not expected, of another shape,
            or of a data type that is not accepted.
    """
    missing = [file_key(component.scheme, component.name, key) for key in expected if key not in tensors]
    unexpected = [tensor for key, tensor in tensors.items() if key not in expected]
    reshaped = [
        (tensor, list(expected[key]))
        for key, tensor in tensors.items()
        if key in expected and tensor.shape != tuple(expected[key])
    ]
    retyped = [tensor for tensor in tensors.values() if tensor.dtype not in ACCEPTED_DTYPES]
    problems = [
        *_problem("missing", missing),
        *_problem("unexpected", [tensor.key for tensor in unexpected]),
        *_problem(
            "of another shape",
            [f"{tensor.key} is {list(tensor.shape)}, expected {shape}" for tensor, shape in reshaped],
        ),
        *_problem(
            "of another data type",
            [
                f"{tensor.key} is {tensor.dtype}, expected {' or '.join(ACCEPTED_DTYPES)}"
                for tensor in retyped
            ],
        ),
    ]
    if problems:
        wrong = [*unexpected, *(tensor for tensor, _ in reshaped), *retyped]
        file = wrong[0].file if wrong and not missing else component.weights.path
        raise CheckpointError(
            f"{file}: does not hold the {component.name} of {component.config.path}: {'; '.join(problems)}"
        )


def _headers(component: Component) -> dict[Path, dict[str, StoredTensor]]:
    headers = {shard: read_header(shard) for shard in component.weights.shards}
    index = component.weights.index
    if index is not None:
        for key, name in read_weight_map(index).items():
            if key not in headers[index.parent / name]:
                raise CheckpointError(f"{index.parent / name}: {key}: missing, {index.name} says it is there")
    return headers


def _problem(kind: str, items: Iterable[str]) -> list[str]:
    found = list(items)
    if not found:
        return []
    keys = "1 key" if len(found) == 1 else f"{len(found)} keys"
    return [f"{keys} {kind}: {first_names(found, _NAMED_COUNT)}"]
