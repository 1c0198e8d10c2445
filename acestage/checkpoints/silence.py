"""Reads `silence_latent.pt`, the one file of the original layout that is not safetensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from acestage.errors import CheckpointError


def read_silence_latent(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The latents of silence, as the condition encoder holds them.

    Only tensors are unpickled, never code.

    Args:
        path: a file with one floating-point tensor `[1, channels, frames]`.
        shape: what the condition encoder expects, `[1, frames, channels]`.

    Returns:
        A contiguous CPU tensor of `shape`, in the data type of the file.

    Raises:
        CheckpointError: the file is missing, damaged, holds something else, or another shape.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path}: cannot be read as a tensor: {error}") from error
    if not isinstance(stored, torch.Tensor) or not stored.is_floating_point():
        found = f"a tensor of {stored.dtype}" if isinstance(stored, torch.Tensor) else type(stored).__name__
        raise CheckpointError(f"{path}: holds {found}, expected a floating-point tensor")
    expected = [shape[0], shape[2], shape[1]]
    if list(stored.shape) != expected:
        raise CheckpointError(f"{path}: shape {list(stored.shape)}, expected {expected}")
    # Strided, it would take other kernels than the same buffer of the diffusers layout.
    return stored.transpose(1, 2).contiguous()
