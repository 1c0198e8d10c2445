"""What staying warm and working for several songs under one lease save: `python -m bench.swaps`.

The same songs go through a simulated device that has one holder at a time, asked for one after the other and
all at once, with different numbers of jobs in work; and through a device with room for all stages. Every case
starts services of its own, and the rounds of the cases alternate. A swap is a stage that brings its weights.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from acestage.generation_options import GenerationOptions
from acestage.settings import EMBEDDED_CHECKPOINT
from bench.results import print_table, spread, write_json
from bench.songs import Song, Wake, sing_in_turn, sing_together
from bench.stack import SMALL_DEVICE_GB, Setup, Stack


@dataclass(frozen=True, slots=True)
class Case:
    """How the songs are asked for, and of what services."""

    name: str
    setup: Setup
    is_together: bool


@dataclass(frozen=True, slots=True)
class Round:
    """One run of a case. Times in seconds; "first" is the song that was served first."""

    ready_s: float
    total_s: float
    swap_count: int
    load_s: float
    compute_s: float
    lease_wait_s: float
    first_audio_s: float
    first_song_s: float
    song_s: tuple[float, ...]
    wakes: tuple[Wake, ...]
    load_average: float


def cases(
    resident: Setup, song_count: int, job_counts: Sequence[int], holds_s: Sequence[float]
) -> list[Case]:
    """All cases; `resident` is the setup with room for all stages."""
    small = replace(resident, max_vram_gb=SMALL_DEVICE_GB)
    all_jobs = f"{song_count} in work"
    found = [Case("one by one", small, is_together=False)]
    for jobs in job_counts:
        setup = replace(small, concurrent_job_count=jobs)
        found.append(Case(f"together, {jobs} in work", setup, is_together=True))
    for hold_s in holds_s:
        setup = replace(small, concurrent_job_count=song_count, max_hold_s=hold_s)
        found.append(Case(f"together, {all_jobs}, hold {hold_s:g} s", setup, is_together=True))
    found.append(Case("resident, one by one", resident, is_together=False))
    found.append(Case("resident, together, as by default", resident, is_together=True))
    setup = replace(resident, concurrent_job_count=song_count)
    found.append(Case(f"resident, together, {all_jobs}", setup, is_together=True))
    return found


async def run(case: Case, options: GenerationOptions, song_count: int) -> Round:
    """Runs a case once, from services that have done nothing yet."""
    async with Stack.start(case.setup) as stack:
        begun = time.monotonic()
        make = sing_together if case.is_together else sing_in_turn
        songs = await make(stack.client, options, song_count)
        total_s = time.monotonic() - begun
        # Of songs that are asked for at the same time, any may be served first.
        first = min(songs, key=lambda song: song.first_audio_s) if case.is_together else songs[0]
        return _round(songs, first, stack.ready_s, total_s)


def _round(songs: Sequence[Song], first: Song, ready_s: float, total_s: float) -> Round:
    return Round(
        ready_s=ready_s,
        total_s=total_s,
        swap_count=sum(song.swap_count for song in songs),
        load_s=sum(song.load_s for song in songs),
        compute_s=sum(song.compute_s for song in songs),
        lease_wait_s=sum(song.lease_wait_s for song in songs),
        first_audio_s=first.first_audio_s,
        first_song_s=first.total_s,
        song_s=tuple(song.total_s for song in songs),
        wakes=tuple(wake for song in songs for wake in song.wakes),
        load_average=os.getloadavg()[0],
    )


def show(rounds: dict[str, list[Round]], song_count: int) -> None:
    """Prints a row for each case: medians over its rounds, with the range."""
    headers = (
        *("case", "swaps", "total s", "s a song", "load s", "compute s", "lease wait s"),
        *("1st song: audio s", "complete s", "mean song s"),
    )
    rows = []
    for name, done in rounds.items():
        columns = (
            (0, [r.swap_count for r in done]),
            (1, [r.total_s for r in done]),
            (1, [r.total_s / song_count for r in done]),
            (2, [r.load_s for r in done]),
            (1, [r.compute_s for r in done]),
            (1, [r.lease_wait_s for r in done]),
            (1, [r.first_audio_s for r in done]),
            (1, [r.first_song_s for r in done]),
            (1, [sum(r.song_s) / song_count for r in done]),
        )
        rows.append([name, *(spread(values, digits) for digits, values in columns)])
    print_table(headers, rows)


async def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.swaps", description=__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--songs", type=int, default=6)
    parser.add_argument("--duration", type=float, default=10.0, help="of each song, in seconds")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--jobs", type=int, nargs="*", help="jobs in work that are tried (1, 2, all)")
    parser.add_argument("--holds", type=float, nargs="*", default=[0.0], help="maximum holds that are tried")
    parser.add_argument("--threads", type=int, help="of a worker; the embedded model gains nothing from 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="swaps", help="of the file of results")
    given = parser.parse_args()
    job_counts = given.jobs if given.jobs is not None else sorted({1, 2, given.songs})
    resident = Setup(given.checkpoint, threads=given.threads)
    tried = cases(resident, given.songs, job_counts, given.holds)
    options: GenerationOptions = {"duration_s": given.duration, "step_count": given.steps}
    rounds: dict[str, list[Round]] = {case.name: [] for case in tried}
    for _ in range(given.rounds):
        for case in tried:
            rounds[case.name].append(await run(case, options, given.songs))
            write_json(given.name, {name: [asdict(r) for r in done] for name, done in rounds.items()})
    show(rounds, given.songs)


if __name__ == "__main__":
    asyncio.run(main())
