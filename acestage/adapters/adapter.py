"""A LoRA adapter as its files describe it, read without torch and without its weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from acestage.adapters.adapter_keys import AdapterKey, Part, parse_key
from acestage.checkpoints.configs import ConfigFile
from acestage.checkpoints.headers import StoredTensor, read_header
from acestage.checkpoints.stored import ACCEPTED_DTYPES
from acestage.errors import CheckpointError
from acestage.naming import first_names

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused. Rank 128 on every layer of the published transformer takes 650 MB in float32."""

CONFIG_FILE = "adapter_config.json"

_NAMED_COUNT = 3

_KOHYA_PREFIXES = ("lora_unet_", "lycoris_")
_NAMED_BY_KOHYA = "are named as by kohya-ss or LyCORIS; accepted: names as PEFT or diffusers writes them"

_INITIALISATIONS = ("gaussian", "eva", "orthogonal", "mica")
"""Those of PEFT 0.21 that leave the model's weights as they are, besides true and false."""


@dataclass(frozen=True, slots=True)
class AdapterLayer:
    """A low-rank update of one layer.

    Attributes:
        module: the layer, in the names of diffusers' transformer.
        stored_module: the layer in the names of the file.
        wrapped_module: the layer as PEFT's settings name it, see `AdapterKey`.
        down: [rank, inputs].
        up: [outputs, rank].
        alpha: one number, or None where the file does not have it.
    """

    module: str
    stored_module: str
    wrapped_module: str
    down: StoredTensor
    up: StoredTensor
    alpha: StoredTensor | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on this machine.

    Attributes:
        file: the safetensors file with its weights.
        file_bytes: size of the file.
        modified_ns: when the file was last changed, as `os.stat` says it.
        config: PEFT's settings beside the file; None where there are none.
        layers: by name.
    """

    file: Path
    file_bytes: int
    modified_ns: int
    config: ConfigFile | None
    layers: tuple[AdapterLayer, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks that its layers have, the smallest first."""
        return tuple(sorted({layer.rank for layer in self.layers}))

    @property
    def config_digest(self) -> str:
        """SHA-256 of the settings, in hexadecimal digits; empty where there are none."""
        if self.config is None:
            return ""
        return hashlib.sha256(json.dumps(self.config.values, sort_keys=True).encode()).hexdigest()

    @property
    def parameter_count(self) -> int:
        """Numbers in its matrices."""
        return sum(math.prod(layer.down.shape) + math.prod(layer.up.shape) for layer in self.layers)


def read_adapter(file: Path, config_file: Path | None = None) -> Adapter:
    """Reads the header of `file`, and PEFT's settings in `config_file`.

    Raises:
        CheckpointError: the file is missing, damaged, too large, or not a LoRA adapter of a kind that can be
            used.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    if stat.st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{file}: has {stat.st_size} bytes; accepted: up to {MAX_FILE_BYTES}")
    config = None if config_file is None else ConfigFile.read(config_file)
    if config is not None:
        _check_config(config)
    layers = _layers(file, read_header(file))
    return Adapter(file, stat.st_size, stat.st_mtime_ns, config, layers)


def _check_config(config: ConfigFile) -> None:
    kind = config.values.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{config.path}: peft_type is {kind!r}; accepted: LORA")
    if config.flag("use_dora"):
        raise CheckpointError(f"{config.path}: use_dora is true; accepted: LoRA without DoRA")
    check_initialisation(config.path, config.values)


def check_initialisation(file: Path, settings: Mapping[str, object]) -> None:
    """Raises `CheckpointError` where training began with a change of the model's own weights.

    PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take the first product of the matrices out of the weights, or round
    them, so added to the weights as they were such an adapter gives something else.
    """
    value = settings.get("init_lora_weights")
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, str) or value.lower() not in _INITIALISATIONS:
        raise CheckpointError(
            f"{file}: init_lora_weights is {str(value)[:100]!r}; accepted: true, false, "
            f"{', '.join(_INITIALISATIONS)}, which leave the model's weights as they are. PEFT's "
            "save_pretrained with path_initial_model_for_weight_conversion makes an ordinary LoRA of PiSSA, "
            "OLoRA, CorDA and LoRA-GA"
        )


def _layers(file: Path, header: Mapping[str, StoredTensor]) -> tuple[AdapterLayer, ...]:
    parts: dict[str, dict[Part, tuple[AdapterKey, StoredTensor]]] = defaultdict(dict)
    unknown, twice = [], []
    for name, tensor in header.items():
        key = parse_key(name)
        if key is None:
            unknown.append(name)
        elif key.part in parts[key.module]:
            twice.append(name)
        else:
            parts[key.module][key.part] = (key, tensor)
    _refuse(file, _NAMED_BY_KOHYA, (name for name in header if name.startswith(_KOHYA_PREFIXES)))
    _refuse(file, "are no part of a LoRA adapter", unknown)
    _refuse(file, "are there twice under different names", twice)
    _refuse(
        file,
        "lack one of their two matrices",
        (module for module, found in parts.items() if not {"down", "up"} <= found.keys()),
    )
    if not parts:
        raise CheckpointError(f"{file}: has no tensors; accepted: a LoRA adapter")
    return tuple(_layer(module, parts[module]) for module in sorted(parts))


def _layer(module: str, parts: Mapping[Part, tuple[AdapterKey, StoredTensor]]) -> AdapterLayer:
    key, down = parts["down"]
    _, up = parts["up"]
    alpha = parts["alpha"][1] if "alpha" in parts else None
    for tensor in (down, up):
        if tensor.dtype not in ACCEPTED_DTYPES:
            raise CheckpointError(
                f"{tensor.file}: {tensor.key} is {tensor.dtype}; accepted: {', '.join(ACCEPTED_DTYPES)}"
            )
    is_fine = len(down.shape) == len(up.shape) == 2 and down.shape[0] == up.shape[1] >= 1
    if not is_fine:
        raise CheckpointError(
            f"{down.file}: {down.key} is {list(down.shape)} and {up.key} is {list(up.shape)}; "
            "accepted: [rank, inputs] and [outputs, rank]"
        )
    if alpha is not None and math.prod(alpha.shape) != 1:
        raise CheckpointError(f"{alpha.file}: {alpha.key} is {list(alpha.shape)}; accepted: one number")
    return AdapterLayer(module, key.stored_module, key.wrapped_module, down, up, alpha)


def _refuse(file: Path, what: str, names: Iterable[str]) -> None:
    found = [name[:200] for name in names]
    if found:
        shown = first_names(found, _NAMED_COUNT)
        raise CheckpointError(f"{file}: not a LoRA adapter that can be used: {shown} {what}")
