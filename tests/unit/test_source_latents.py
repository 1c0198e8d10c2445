"""The part of a reference that the model hears."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline

from services.orchestrator.song.source_latents import reference_clip

RATE_HZ = 100


class _HeardError(Exception):
    pass


class _Vae:
    dtype = torch.float32

    def encode(self, audio: torch.Tensor) -> object:
        raise _HeardError(audio)


class _Pipeline:
    """In the place of a pipeline: its VAE gives back the audio that it is to encode."""

    sample_rate = RATE_HZ
    vae = _Vae()


@pytest.mark.parametrize("count", [100, 999, 2_999, 3_000, 3_001, 3_500, 10_007])
def test_a_clip_is_that_of_the_pipeline(count: int) -> None:
    samples = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    with pytest.raises(_HeardError) as heard:
        AceStepPipeline.prepare_reference_audio_latents(
            _Pipeline(), torch.from_numpy(samples.T.copy()), 1, torch.device("cpu"), torch.float32
        )
    (audio,) = heard.value.args
    assert np.array_equal(reference_clip(samples, RATE_HZ), audio[0].T.numpy())
