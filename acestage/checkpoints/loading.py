"""Loads the components of a checkpoint as modules whose weights are mapped files, not memory of their own.

Every loader checks keys and shapes of the whole component before it maps a weight, keeps the data types of
the files, and returns a module in eval mode on the CPU. Pages of a mapped weight can be shared by processes
and dropped by the kernel. Imports torch, diffusers and transformers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from transformers import AutoTokenizer

from acestage.checkpoints.checkpoint import Checkpoint, Component
from acestage.checkpoints.component_names import VAE
from acestage.checkpoints.headers import StoredTensor
from acestage.checkpoints.modules import BUILD_ERRORS, build_module
from acestage.checkpoints.silence import read_silence_latent
from acestage.checkpoints.stored import check_tensors, stored_tensors
from acestage.errors import CheckpointError, InternalError

if TYPE_CHECKING:
    import torch
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder
    from transformers import PreTrainedTokenizerFast

_SILENCE_LATENT = "silence_latent"


@dataclass(frozen=True, slots=True)
class ComponentSummary:
    """What a component has in its files.

    Attributes:
        component: name of the component.
        file_count: safetensors files that hold its tensors.
        tensor_count: how many tensors it has in them.
        byte_count: bytes of these tensors.
        dtypes: their data types, such as `BF16`, sorted.
    """

    component: str
    file_count: int
    tensor_count: int
    byte_count: int
    dtypes: tuple[str, ...]


# The classes of diffusers and transformers have no types, so what a loader returns is checked by tests.
def load_component(checkpoint: Checkpoint, name: str) -> Any:
    """The component `name`, such as "transformer", as a module.

    The text encoder has no language model head. The condition encoder's buffer `silence_latent` is
    `[1, frames, channels]`.

    Raises:
        CheckpointError: the checkpoint does not have it, or its files are missing, damaged, or not those of
            its configuration.
    """
    component = checkpoint.component(name)
    module = build_module(component)
    state = _map(_checked_tensors(component, module))
    if component.silence_latent is not None:
        state[_SILENCE_LATENT] = _read_silence_latent(component, module)
    _assign(module, state)
    return module


def load_decoder(checkpoint: Checkpoint) -> OobleckDecoder:
    """The decoder of the VAE, with its weight norm in place.

    All keys of the VAE are checked, but only the decoder's weights are mapped. The `weight` of its
    convolutions, which weight norm computes from `weight_g` and `weight_v` before each pass, stays on the
    meta device until the first one.

    Raises:
        CheckpointError: the VAE's files are missing, damaged, or not those of its configuration.
    """
    return _load_vae_part(checkpoint, "decoder")


def load_encoder(checkpoint: Checkpoint) -> OobleckEncoder:
    """The encoder of the VAE; all that `load_decoder` says of the decoder is true of it.

    Raises:
        CheckpointError: the VAE's files are missing, damaged, or not those of its configuration.
    """
    return _load_vae_part(checkpoint, "encoder")


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The text tokenizer; never reads from the network.

    Raises:
        CheckpointError: its files are missing or damaged.
    """
    path = checkpoint.tokenizer_path
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, *BUILD_ERRORS) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from error


def verify(checkpoint: Checkpoint) -> list[ComponentSummary]:
    """Checks the keys, shapes and data types of all components that are there, and loads the tokenizer.

    Reads the headers of weights only.

    Raises:
        CheckpointError: of the first component that is wrong.
    """
    load_tokenizer(checkpoint)
    summaries = []
    for component in checkpoint.components:
        module = build_module(component)
        tensors = _checked_tensors(component, module).values()
        if component.silence_latent is not None:
            _read_silence_latent(component, module)
        summaries.append(
            ComponentSummary(
                component.name,
                len({tensor.file for tensor in tensors}),
                len(tensors),
                sum(tensor.byte_count for tensor in tensors),
                tuple(sorted({tensor.dtype for tensor in tensors})),
            )
        )
    return summaries


def _load_vae_part(checkpoint: Checkpoint, name: str) -> Any:
    component = checkpoint.component(VAE)
    vae = build_module(component)
    tensors = _checked_tensors(component, vae)
    part = vae.get_submodule(name)
    prefix = f"{name}."
    _assign(
        part,
        _map({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}),
    )
    return part


def _checked_tensors(component: Component, module: torch.nn.Module) -> dict[str, StoredTensor]:
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if component.silence_latent is not None:
        del expected[_SILENCE_LATENT]
    tensors = stored_tensors(component)
    check_tensors(component, tensors, expected)
    return tensors


def _read_silence_latent(component: Component, module: torch.nn.Module) -> torch.Tensor:
    assert component.silence_latent is not None
    return read_silence_latent(component.silence_latent, tuple(module.get_buffer(_SILENCE_LATENT).shape))


def _map(tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
    by_file = defaultdict(list)
    for key, tensor in tensors.items():
        by_file[tensor.file].append((key, tensor.key))
    mapped: dict[str, torch.Tensor] = {}
    for path, keys in by_file.items():
        # On the CPU this gives views of a private mapping of the file.
        with safe_open(path, framework="pt", device="cpu") as file:
            mapped.update((key, file.get_tensor(file_key)) for key, file_key in keys)
    return mapped


def _assign(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    module.load_state_dict(state, assign=True, strict=True)
    left = [
        name for name, tensor in chain(module.named_parameters(), module.named_buffers()) if tensor.is_meta
    ]
    if left:
        raise InternalError(f"{type(module).__name__}: not loaded from any file: {', '.join(left)}")
