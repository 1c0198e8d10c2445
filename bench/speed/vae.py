"""Decoding: our engine with its default tiles, and `AutoencoderOobleck.decode` of diffusers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import VAE
from acestage.checkpoints.loading import load_decoder
from acestage.checkpoints.modules import build_module
from acestage.planning import DEFAULT_TILE_FRAMES
from bench.speed import as_workers
from bench.speed.scope import Scope, interleaved, name_of
from services.vae.worker import load

QUICK_S, SHORT_S, LONG_S = 10, 30, 180
"""Of songs; a decode takes time in proportion to it, but for the halos, which weigh more in a short one."""

DIFFUSERS_FLOAT32 = "diffusers float32"
"""What diffusers computes in, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decode: seconds until the first audio and until the last, and the audio [samples, channels]."""

    first_s: float
    total_s: float
    audio: torch.Tensor


class Contest:
    """The same weights in our engine, and in the class of diffusers in the same data type and in float32.

    Attributes:
        ours: the name of that type, and of our way.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self.ours = name_of(dtype)
        worker = load(checkpoint)
        self.kernels = as_workers.place("vae", worker, checkpoint, dtype, "none")
        self._engine = worker.engine
        self._whole = {DIFFUSERS_FLOAT32: self._diffusers(torch.float32)}
        if dtype != torch.float32:
            self._whole[f"diffusers {self.ours}"] = self._diffusers(dtype)
        self._tiled = {f"diffusers {self.ours} tiled": self._whole[f"diffusers {self.ours}"]}

    def passes(self, duration_s: int) -> dict[str, Callable[[], Decoded]]:
        """What decodes the same latents, by way; the first one is what distances are from.

        A long song is decoded by diffusers with its own tiling: whole, it takes too much memory.
        """
        model = self._checkpoint.model
        shape = (1, round(duration_s * model.latent_frame_rate_hz), model.latent_channel_count)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        is_tiled = duration_s > SHORT_S
        theirs = self._tiled if is_tiled else self._whole
        return {
            **{way: partial(decode_theirs, vae, is_tiled, latents) for way, vae in theirs.items()},
            self.ours: lambda: timed(t.audio for t in self._engine.decode(latents, DEFAULT_TILE_FRAMES)),
        }

    def _diffusers(self, dtype: torch.dtype) -> Any:
        vae: Any = build_module(self._checkpoint.component(VAE))
        vae.decoder = load_decoder(self._checkpoint).to(dtype)
        return vae


def decode_theirs(vae: Any, is_tiled: bool, latents: torch.Tensor) -> Decoded:
    """Decodes `latents` [1, frames, channels] with a VAE of diffusers, with its own tiling or whole."""
    dtype = next(vae.decoder.parameters()).dtype

    def decode() -> Iterator[torch.Tensor]:
        vae.use_tiling = is_tiled
        sample = vae.decode(latents.transpose(1, 2).to(dtype)).sample
        yield sample[0].transpose(0, 1).float()

    return timed(decode())


def timed(chunks: Iterator[torch.Tensor]) -> Decoded:
    """Runs through `chunks` of audio [samples, channels], at least one."""
    begun = time.perf_counter()
    arrivals, audio = [], []
    for chunk in chunks:
        arrivals.append(time.perf_counter() - begun)
        audio.append(chunk)
    return Decoded(arrivals[0], arrivals[-1], torch.cat(audio))


@torch.no_grad()
def measure(scope: Scope) -> dict[str, Any]:
    """Seconds of decodes round by round, and how far the audio of the last round is apart.

    Distances are in parts of the largest magnitude.
    """
    contest = Contest(scope.open(), scope.dtype())
    return {
        "dtype": contest.ours,
        "tile_frame_count": DEFAULT_TILE_FRAMES,
        "kernels": contest.kernels,
        "lengths": [
            _length(contest, duration_s, scope.round_count)
            for duration_s in ((QUICK_S,) if scope.is_quick else (SHORT_S, LONG_S))
        ],
    }


def _length(contest: Contest, duration_s: int, round_count: int) -> dict[str, Any]:
    passes = contest.passes(duration_s)
    reference = next(iter(passes))
    for decode in passes.values():
        decode()  # what it takes to make kernels for these shapes is not measured
    rounds, distances = [], {}
    for of_round in interleaved(passes, round_count):
        whole = of_round[reference].audio
        scale = float(whole.abs().max())
        distances = {way: float((found.audio - whole).abs().max()) / scale for way, found in of_round.items()}
        rounds.append(
            {way: {"first_s": found.first_s, "total_s": found.total_s} for way, found in of_round.items()}
        )
    return {"duration_s": duration_s, "rounds": rounds, "distances": distances}
