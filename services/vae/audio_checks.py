"""Checks of audio that is to be encoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from acestage import tensors
from acestage.checkpoints import ModelFacts
from acestage.errors import InvalidArgumentError
from acestage.tensors import WireTensor
from services.runtime.rpc.request_limits import MAX_FRAME_COUNT, MAX_MAGNITUDE

_BLOCK_SAMPLES = 1 << 20


def require_audio(received: Mapping[str, WireTensor], model: ModelFacts) -> WireTensor:
    """The tensor "audio", checked to be [1, samples, channels] of float32, and whole latent frames long.

    Raises:
        InvalidArgumentError: it is missing, or wrong.
    """
    channels, hop = model.audio_channel_count, model.hop_sample_count
    audio = tensors.require(received, "audio", 1, None, channels)
    if audio.dtype != "float32":
        raise InvalidArgumentError.at("tensor.audio.data_type", f"is {audio.dtype}; accepted: float32")
    sample_count = audio.shape[1]
    if sample_count % hop or sample_count > MAX_FRAME_COUNT * hop:
        raise InvalidArgumentError.at(
            "tensor.audio.shape",
            f"has {sample_count} samples; accepted: whole latent frames, multiples of {hop} up to "
            f"{MAX_FRAME_COUNT * hop}",
        )
    return audio


def require_usable(audio: WireTensor) -> None:
    """Looks at every sample, which takes a tenth of a second for ten minutes.

    Raises:
        InvalidArgumentError: one is beyond `MAX_MAGNITUDE`, or not a number; says which.
    """
    samples = np.frombuffer(audio.data, dtype="<f4").reshape(audio.shape[1:])
    for start in range(0, len(samples), _BLOCK_SAMPLES):
        wrong = ~(np.abs(samples[start : start + _BLOCK_SAMPLES]) <= MAX_MAGNITUDE)
        if wrong.any():
            index, channel = (int(place[0]) for place in wrong.nonzero())
            value = samples[start + index, channel]
            raise InvalidArgumentError.at(
                "tensor.audio",
                f"is {value:g} at sample {start + index} of channel {channel}; accepted: "
                f"{-MAX_MAGNITUDE:g} to {MAX_MAGNITUDE:g}",
            )
