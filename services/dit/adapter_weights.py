"""The weights of LoRA adapters, read from their files and made ready to be added."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from safetensors import SafetensorError

from acestage.adapters import Adapter, AdapterLayer, check_initialisation, parse_key, read_adapter
from acestage.errors import CheckpointError
from services.dit.parameters import AdapterUse

_OF_DIFFUSERS = "transformer."


def read_again(use: AdapterUse) -> Adapter:
    """The adapter that `use` is about.

    Raises:
        CheckpointError: its file is no longer what it was as the job was planned, or its settings are not.
    """
    adapter = read_adapter(Path(use.file), None if use.config_file is None else Path(use.config_file))
    if (adapter.file_bytes, adapter.modified_ns) != (use.file_bytes, use.modified_ns):
        raise CheckpointError(f"{use.file}: has changed since the job was planned; ask again")
    if adapter.config_digest != use.config_digest:
        raise CheckpointError(f"{use.config_file}: has changed since the job was planned; ask again")
    return adapter


@dataclass(frozen=True, slots=True)
class Matrices:
    """The low-rank update of one layer: it adds up @ down @ x.

    Attributes:
        module: the layer, in the names of diffusers' transformer.
        down: [rank, inputs], float32.
        up: [outputs, rank], float32.
    """

    module: str
    down: torch.Tensor
    up: torch.Tensor


def load_matrices(adapter: Adapter) -> Iterator[Matrices]:
    """The matrices of each layer, copied from the mapped file one by one.

    The layer's own scale is in `up`. That is alpha / rank, or alpha / sqrt(rank) where the settings say
    `use_rslora`. Alpha comes from the layer's own tensor, else
    from PEFT's settings beside the file, else from those that diffusers keeps in the file; without any it is
    the rank.

    Raises:
        CheckpointError: a value is not finite, or the settings make no sense.
    """
    try:
        stored, metadata = AceStepLoraLoaderMixin.lora_state_dict(
            str(adapter.file),
            weight_name=adapter.file.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{adapter.file}: cannot be read: {error}") from error
    tensors = {}
    for name, tensor in stored.items():
        key = parse_key(name)
        assert key is not None, f"{name}: the header was checked"
        tensors[key.module, key.part] = tensor
    settings = _settings(adapter, metadata)
    for layer in adapter.layers:
        down, up = tensors[layer.module, "down"], tensors[layer.module, "up"]
        alpha = tensors.get((layer.module, "alpha"))
        scaling = _scaling(adapter.file, layer, settings, None if alpha is None else alpha.item())
        # Copies: the file may be written to while the job runs.
        matrices = Matrices(
            layer.module,
            down.to(torch.float32, copy=True),
            up.to(torch.float32, copy=True).mul_(scaling),
        )
        if not (matrices.down.isfinite().all() and matrices.up.isfinite().all()):
            raise CheckpointError(f"{adapter.file}: {layer.stored_module} has values that are not finite")
        yield matrices


def _settings(adapter: Adapter, metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if adapter.config is not None:
        return adapter.config.values
    if not isinstance(metadata, Mapping | None):
        raise CheckpointError(f"{adapter.file}: its settings are no JSON object, so they make no sense")
    settings = {key.removeprefix(_OF_DIFFUSERS): value for key, value in (metadata or {}).items()}
    check_initialisation(adapter.file, settings)
    return settings


def _scaling(file: Path, layer: AdapterLayer, settings: Mapping[str, Any], alpha: float | None) -> float:
    if alpha is not None:
        return alpha / layer.rank
    try:
        patterns = settings.get("alpha_pattern") or {}
        # As PEFT's `get_pattern_key` does, and then without what trainers put in front.
        found = [
            value
            for name in (layer.wrapped_module, layer.stored_module)
            for key, value in patterns.items()
            if re.fullmatch(rf"(.*\.)?({key})", name)
        ]
        given = float(found[0] if found else settings.get("lora_alpha", layer.rank))
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise CheckpointError(f"{file}: alpha_pattern or lora_alpha make no sense: {error}") from error
    scaling = given / (math.sqrt(layer.rank) if settings.get("use_rslora") else layer.rank)
    if not math.isfinite(scaling):
        raise CheckpointError(f"{file}: {layer.module} has alpha {given}; accepted: a finite number")
    return scaling
