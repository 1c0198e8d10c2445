"""A step of the diffusion transformer: ours with precise and with int8 weights, and that of diffusers."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import torch

from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.loading import load_component
from acestage.planning import Quantization
from bench.speed import as_workers
from bench.speed.denoising import TOKEN_COUNT, Denoised, diffusers_denoise, in_turn, random_conditioning
from bench.speed.scope import Scope, name_of
from services.dit import transformer_pass
from services.dit.engine import Conditioning, DitEngine
from services.dit.kernels import kernels_for
from services.dit.parameters import DenoiseParameters
from services.dit.time_embeddings import EMBEDDERS
from services.dit.transformer_pass import add_update
from services.dit.worker import load
from services.runtime.weights.placement import placed_bytes

SHORT_S, LONG_S = 30, 180

STEP_COUNT = 8
"""Of a turbo model."""

LONG_STEP_COUNT = 2
"""The first one is told apart, because it has in it what is done once a job; the other one is the round."""

BRANCH_COUNT = 3
"""Of a block: two attentions and a feed-forward layer."""

DIFFUSERS, INT8 = "diffusers", "int8"
"""Besides ours with precise weights, which is called by their data type."""


class Contest:
    """The same weights in our engine, twice, and in the class of diffusers; all compute in one data type.

    Attributes:
        precise: the name of that type, and of our engine with weights in it.
    """

    def __init__(self, scope: Scope) -> None:
        self._checkpoint = scope.open()
        self._dtype = scope.dtype()
        self.precise = name_of(self._dtype)
        # The method of diffusers warns of a list of exceptions that is empty.
        self._theirs: Any = torch.nn.Module.to(load_component(self._checkpoint, TRANSFORMER), self._dtype)
        self._width: int = self._theirs.condition_embedder.in_features
        self._ours = {self.precise: self._placed("none"), INT8: self._placed("int8")}

    def denoise(self, duration_s: int, step_count: int) -> dict[str, Denoised]:
        """Denoises the same noise under the same condition in all ways, step by step in turns."""
        conditioning, parameters = self._conditioning(duration_s), self._parameters(step_count)
        ours = {name: engine.denoise(conditioning, parameters) for name, engine in self._ours.items()}
        return in_turn({DIFFUSERS: diffusers_denoise(self._theirs, conditioning, parameters), **ours})

    def block_errors(self) -> list[float]:
        """How far tokens are apart after each block of one pass, with int8 weights and with precise ones."""
        conditioning, parameters = self._conditioning(SHORT_S), self._parameters(1)
        found = {name: after_blocks(engine, conditioning, parameters) for name, engine in self._ours.items()}
        return [relative_distance(*pair) for pair in zip(found[INT8], found[self.precise], strict=True)]

    def eager_latents(self) -> torch.Tensor:
        """What `denoise` makes of the short song, with kernels that are eager from then on."""
        for kernel in kernels_for(torch.device("cpu"), self._dtype):
            kernel.forget_compiled()
        conditioning, parameters = self._conditioning(SHORT_S), self._parameters(STEP_COUNT)
        *_, latents = self._ours[self.precise].denoise(conditioning, parameters)
        assert isinstance(latents, torch.Tensor)
        return latents

    def weights_bytes(self) -> dict[str, int]:
        """Bytes of the weights on the device."""
        modules = load(self._checkpoint).modules()
        placed = functools.partial(placed_bytes, modules, self._dtype, left_out=EMBEDDERS)
        return {
            DIFFUSERS: placed_bytes(modules, self._dtype),
            self.precise: placed("none"),
            INT8: placed("int8"),
        }

    def _conditioning(self, duration_s: int) -> Conditioning:
        frame_count = round(duration_s * self._checkpoint.model.latent_frame_rate_hz)
        return random_conditioning(self._checkpoint, self._width, frame_count)

    def _parameters(self, step_count: int) -> DenoiseParameters:
        return DenoiseParameters(seeds=(1,), step_count=step_count, guidance_scale=1.0, keeps_prompt=True)

    def _placed(self, quantization: Quantization) -> DitEngine:
        worker = load(self._checkpoint)
        self.kernels = as_workers.place("dit", worker, self._checkpoint, self._dtype, quantization)
        return worker.engine


@torch.no_grad()
def measure(scope: Scope) -> dict[str, Any]:
    """Seconds of all steps, and how far the latents after the last one of a whole job are apart.

    A short song is denoised to its end, and each of its steps but the first is a round; a quick run does so
    once. Of a long one a round is a job of its own.
    """
    contest = Contest(scope)
    contest.denoise(SHORT_S, 1)  # reads the weights
    short = [contest.denoise(SHORT_S, STEP_COUNT) for _ in range(1 if scope.is_quick else scope.round_count)]
    lengths = [_steps(SHORT_S, short)]
    if not scope.is_quick:
        long = [contest.denoise(LONG_S, LONG_STEP_COUNT) for _ in range(scope.round_count)]
        lengths.append(_steps(LONG_S, long))
    latents = {way: found.latents for way, found in short[0].items()}
    return {
        "dtype": contest.precise,
        "token_count": TOKEN_COUNT,
        "kernels": contest.kernels,
        "lengths": lengths,
        "weights_bytes": contest.weights_bytes(),
        "block_errors": contest.block_errors(),
        "distances": {
            "duration_s": SHORT_S,
            "step_count": STEP_COUNT,
            "precise_from_diffusers": relative_distance(latents[contest.precise], latents[DIFFUSERS]),
            "eager_from_compiled": relative_distance(contest.eager_latents(), latents[contest.precise]),
            "int8_from_precise": relative_distance(latents[INT8], latents[contest.precise]),
        },
    }


def after_blocks(
    engine: DitEngine, conditioning: Conditioning, parameters: DenoiseParameters
) -> list[torch.Tensor]:
    """The tokens [tokens, width] after each block, in the first pass of a job."""
    sums: list[torch.Tensor] = []

    def recorded(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        total, normed = add_update(*arguments)
        sums.append(total)
        return total, normed

    with mock.patch.object(transformer_pass, add_update.__name__, recorded):
        next(engine.denoise(conditioning, parameters))
    return sums[BRANCH_COUNT - 1 :: BRANCH_COUNT]


def relative_distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    """The L2 norm of the difference, in parts of that of `reference`."""
    reference = reference.float()
    return float((found.float() - reference).norm() / reference.norm())


def _steps(duration_s: int, jobs: list[dict[str, Denoised]]) -> dict[str, Any]:
    return {
        "duration_s": duration_s,
        "jobs": [{way: found.steps_s for way, found in job.items()} for job in jobs],
    }
