"""Random weights that make a model behave: outputs that are finite, not silent, and depend on every input.

Every tensor has a generator of its own, seeded by its name, so that its values do not depend on the layout,
the order of writing or what else is in the checkpoint.
"""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from acestage.checkpoints.component_names import TEXT_ENCODER, TRANSFORMER, VAE

Shapes = dict[str, tuple[int, ...]]
Values = NDArray[np.float32]

# Audio with a peak of about 1 from latents with the spread that the transformer makes.
_OUTPUT_GAIN = 0.05
_NORMS = ("norm.weight", "norm_q.weight", "norm_k.weight", "norm_out.weight")


def random_tensor(component: str, key: str, shapes: Shapes, seed: int) -> torch.Tensor:
    """The fp32 tensor `key` of `component`, whose tensors have `shapes`."""
    # numpy's generator, because torch's draws other values on CPUs with other vector units.
    generator = np.random.default_rng([seed, crc32(f"{component}.{key}".encode())])
    noise = generator.standard_normal(shapes[key], dtype=np.float32)
    return torch.from_numpy(_shaped(component, key, shapes, noise))


def _shaped(component: str, key: str, shapes: Shapes, noise: Values) -> Values:
    if component == VAE:
        return _of_vae(key, shapes, noise)
    if key.endswith(_NORMS) or "layernorm" in key:
        # Sharp attention over the conditions: averaged over a long prompt, no word would count.
        scale = 2.0 if "cross_attn" in key else 1.0
        return scale * (1 + 0.1 * noise)
    if key.endswith(".bias"):
        return 0.05 * noise
    if key.endswith(("scale_shift_table", "silence_latent")):
        return 0.5 * noise
    if "special_token" in key or key == "null_condition_emb":
        return noise
    if component == TEXT_ENCODER and key == "embed_tokens.weight":
        return noise
    if component == TRANSFORMER and key == "proj_out_conv.weight":
        # Transposed: `[in, out, kernel]`, and every output sample has one kernel tap.
        return noise / math.sqrt(noise.shape[0])
    return noise / math.sqrt(math.prod(noise.shape[1:]))


def _of_vae(key: str, shapes: Shapes, noise: Values) -> Values:
    if key.endswith(".bias"):
        return 0.05 * noise
    if key.endswith(".alpha"):
        return 0.3 * noise
    if key.endswith(".beta"):
        # As logarithm: less of the squared sine, whose mean would pile up as a constant.
        return 1 + 0.3 * noise
    if key.endswith("weight_g"):
        return _gain(key, shapes) * (1 + 0.1 * noise)
    if key == "decoder.conv2.weight_v":
        # No constant in the audio.
        centered: Values = noise - noise.mean(axis=2, keepdims=True)
        return centered
    return noise


def _gain(key: str, shapes: Shapes) -> float:
    """The norm that keeps the variance from input to output of a weight-normed convolution."""
    if ".conv_t1." in key:
        # `[in, out, kernel]`, normed over the last two, kernel of twice the stride: two taps a sample.
        in_channels, out_channels, kernel = shapes[key.removesuffix("_g") + "_v"]
        return math.sqrt(out_channels * kernel / 2 / in_channels)
    if ".res_unit" in key and ".conv2." in key:
        return 0.4
    return _OUTPUT_GAIN if key.startswith("decoder.conv2.") else 1.0
