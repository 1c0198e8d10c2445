"""Finds the safetensors files of a component: one file, or the shards that an index names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from acestage.checkpoints.checkpoint import WeightFiles
from acestage.checkpoints.configs import ConfigFile
from acestage.errors import CheckpointError


def find_weight_files(folder: Path, stem: str) -> WeightFiles:
    """The files `stem.safetensors`, or those of `stem.safetensors.index.json`, in `folder`.

    Raises:
        CheckpointError: neither is there, the index is wrong, or a shard is missing.
    """
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return WeightFiles((single,))
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        raise CheckpointError(f"{single}: file not found, and no {index.name} either")
    shards = tuple(folder / name for name in sorted(set(read_weight_map(index).values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder / missing[0]}: file not found; {index.name} names it"
            f" ({len(missing)} of {len(shards)} shards are missing)"
        )
    return WeightFiles(shards, index)


def read_weight_map(index: Path) -> Mapping[str, str]:
    """File name of the shard by key, from the index of a sharded component.

    Raises:
        CheckpointError: the index is missing or wrong, or names a file outside its folder.
    """
    weight_map = ConfigFile.read(index).required("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is not a filled object")
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: {key}: {name!r} is not the name of a file beside it")
    return weight_map
