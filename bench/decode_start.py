"""How soon a decode sounds, and whether it keeps up with the music: `python -m bench.decode_start`.

From latents that are ready to the first audio, and from there chunk by chunk, in one process and without
services: the engine with its tiles, and `AutoencoderOobleck.decode` of diffusers on the same weights, once
untiled and once with its own tiling, which begins above 512 frames. Both of the latter have nothing before
they have everything. "margin" is how much earlier than needed a chunk is there, if playing starts with the
first one: the least over all others, in seconds; below zero the music would have paused, and "-" where there
is no other. Ratios are taken
within a round, one pass after the other. "distance" is from the untiled decode, in parts of its largest
magnitude: in bfloat16 it is the rounding of that type, which weight norm in diffusers adds to.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import VAE
from acestage.checkpoints.loading import load_decoder, load_encoder
from acestage.checkpoints.modules import build_module
from acestage.settings import EMBEDDED_CHECKPOINT
from bench.results import print_table, spread, write_json
from services.vae.engine import VaeEngine


@dataclass(frozen=True, slots=True)
class Start:
    """One decode.

    Attributes:
        way: what decoded.
        first_s: seconds until the first audio.
        total_s: until the last.
        margin_s: the least that a chunk after the first is early, if playing starts with the first one; None
            where there is no other.
        distance: from the untiled decode of diffusers, relative to its largest magnitude.
    """

    way: str
    first_s: float
    total_s: float
    margin_s: float | None
    distance: float


Timed = tuple[tuple[str, float, float, float | None], torch.Tensor]
"""Way, first and last arrival, and margin, as in `Start`; and the audio."""


class Contest:
    """The same weights in our engine and in the class of diffusers.

    Attributes:
        seconds: of the audio.
    """

    def __init__(self, checkpoint: str, dtype: torch.dtype, frame_count: int) -> None:
        opened = open_checkpoint(checkpoint, checkpoints_dir=Path("checkpoints"))
        self._engine = VaeEngine(load_decoder(opened), load_encoder(opened))
        self._engine.place(torch.device("cpu"), dtype)
        theirs: Any = build_module(opened.component(VAE))
        theirs.decoder = load_decoder(opened).to(dtype)
        self._theirs = theirs
        self._sample_rate_hz = opened.model.sample_rate_hz
        self.seconds = frame_count / opened.model.latent_frame_rate_hz
        generator = torch.Generator().manual_seed(1)
        channels = opened.model.latent_channel_count
        self._latents = torch.randn(1, frame_count, channels, generator=generator).to(dtype)

    def round(self, tile_frame_counts: list[int]) -> list[Start]:
        """One decode in each way: ours with each size of tiles, and both of diffusers."""
        untiled, *theirs = (self._theirs_once(way) for way in ("diffusers untiled", "diffusers tiled"))
        reference = untiled[1]
        ours = [self._ours_once(tile) for tile in tile_frame_counts]
        scale = float(reference.abs().max())
        return [
            Start(way, first_s, total_s, margin_s, float((audio - reference).abs().max()) / scale)
            for (way, first_s, total_s, margin_s), audio in (untiled, *theirs, *ours)
        ]

    def _ours_once(self, tile_frame_count: int) -> Timed:
        tiles = self._engine.decode(self._latents, tile_frame_count)
        return self._timed(f"tiles of {tile_frame_count}", (tile.audio for tile in tiles))

    def _theirs_once(self, way: str) -> Timed:
        def decode() -> Iterator[torch.Tensor]:
            self._theirs.use_tiling = way.endswith(" tiled")
            sample = self._theirs.decode(self._latents.transpose(1, 2)).sample
            yield sample[0].transpose(0, 1).float()

        return self._timed(way, decode())

    def _timed(self, way: str, chunks: Iterator[torch.Tensor]) -> Timed:
        begun = time.monotonic()
        arrivals, audio = [], []
        for chunk in chunks:
            arrivals.append(time.monotonic() - begun)
            audio.append(chunk)
        margin_s = least_margin_s(arrivals, [len(chunk) / self._sample_rate_hz for chunk in audio])
        return (way, arrivals[0], arrivals[-1], margin_s), torch.cat(audio)


def least_margin_s(arrivals_s: Sequence[float], lengths_s: Sequence[float]) -> float | None:
    """The least that a chunk after the first is early, if playing starts with the first one.

    Args:
        arrivals_s: when each chunk was there.
        lengths_s: for how long each plays.

    Returns:
        None where there is one chunk alone: when it comes, everything starts.
    """
    played_s = itertools.accumulate(lengths_s[:-1])
    due_s = [arrivals_s[0] + seconds for seconds in played_s]
    return min((due - there for due, there in zip(due_s, arrivals_s[1:], strict=True)), default=None)


def _margin(found: list[float | None]) -> str:
    margins = [margin for margin in found if margin is not None]
    return spread(margins, 2) if margins else "-"


def show(rounds: list[list[Start]], seconds: float) -> None:
    """Prints a row for each way; ratios are those to the untiled decode of diffusers."""
    rows = []
    for index, start in enumerate(rounds[0]):
        same = [of_round[index] for of_round in rounds]
        base = [of_round[0] for of_round in rounds]
        rows.append(
            [
                start.way,
                spread([one.first_s for one in same], 2),
                spread([one.first_s / other.first_s for one, other in zip(same, base, strict=True)], 3),
                spread([one.total_s for one in same], 2),
                spread([one.total_s / other.total_s for one, other in zip(same, base, strict=True)], 2),
                spread([seconds / one.total_s for one in same], 2),
                _margin([one.margin_s for one in same]),
                f"{max(one.distance for one in same):.1e}",
            ]
        )
    headers = ("", "first s", "ratio", "total s", "ratio", "x real time", "margin s", "distance")
    print_table(headers, rows)


@torch.no_grad()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.decode_start", description=__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--frames", type=int, default=520, help="latent frames")
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up")
    parser.add_argument("--tiles", type=int, nargs="+", default=[64, 128], help="latent frames of ours")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, help="default all")
    parser.add_argument("--name", default="decode-start", help="of the file of results")
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    contest = Contest(given.checkpoint, getattr(torch, given.dtype), given.frames)
    rounds = [contest.round(given.tiles) for _ in range(1 + given.rounds)][1:]
    results = [[asdict(start) for start in of_round] for of_round in rounds]
    write_json(given.name, {"load_average": os.getloadavg()[0], "rounds": results})
    show(rounds, contest.seconds)


if __name__ == "__main__":
    main()
