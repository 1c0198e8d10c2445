"""Whether processes grow over many jobs: `python -m bench.memory`.

Jobs of several lengths and batch sizes go one after the other through services whose workers stay warm; some
are cancelled in the middle and some are refused. The memory of every process is measured after each job. What
grows from job 3 to the last by more than 5 % is marked.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass

from acestage import AsyncClient
from acestage.errors import InvalidArgumentError
from acestage.generation import ProcessMemory, StageProgress
from acestage.generation_options import GenerationOptions
from acestage.settings import EMBEDDED_CHECKPOINT
from bench.results import mib, print_table, write_json
from bench.songs import SONG_TIMEOUT_S, numbered_caption, sing
from bench.stack import Setup, Stack

BASELINE_JOB = 3
ALLOWED_GROWTH = 1.05


class Fate(enum.Enum):
    """How a job is meant to end."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Job:
    """A job: seconds of music, takes, and its end."""

    duration_s: float
    batch_size: int = 1
    fate: Fate = Fate.COMPLETE


LARGEST = Job(60, 2)
"""The first job: memory that a larger one takes later would not be growth, but size."""

MIX = (
    LARGEST,
    Job(10),
    Job(30),
    Job(20, 2),
    Job(60, fate=Fate.CANCELLED),
    Job(45),
    Job(5, fate=Fate.REFUSED),
    Job(15, 2),
    Job(30, 2, Fate.CANCELLED),
    Job(60),
)


async def do(client: AsyncClient, job: Job, seed: int) -> None:
    """Has `job` done, and returns once the orchestrator has nothing more of it."""
    options: GenerationOptions = {
        "duration_s": job.duration_s,
        "batch_size": job.batch_size,
        "seed": seed,
        "lyrics": "[verse]\nRain on the window",
    }
    caption = numbered_caption(seed)
    match job.fate:
        case Fate.COMPLETE:
            await sing(client, options, caption)
        case Fate.CANCELLED:
            async with aclosing(client.stream(caption, timeout_s=SONG_TIMEOUT_S, **options)) as events:
                async for event in events:
                    if isinstance(event, StageProgress):
                        break
        case Fate.REFUSED:
            try:
                await sing(client, options, caption)
            except InvalidArgumentError:
                return
            raise AssertionError(f"{job} was not refused")
    while True:
        status = await client.status()
        if not status.queue.running_count and not any(stage.active_job_count for stage in status.stages):
            return


async def run(setup: Setup, jobs: Sequence[Job]) -> list[dict[str, ProcessMemory]]:
    """The memory of all processes after each of `jobs`, which are done one after the other."""
    after = []
    async with Stack.start(setup) as stack:
        for number, job in enumerate(jobs):
            await do(stack.client, job, seed=number)
            after.append({memory.name: memory for memory in await stack.memories()})
    return after


def show(after: Sequence[dict[str, ProcessMemory]]) -> None:
    """Prints a row for each process: then, now, and by how much it grew."""
    first, last = after[BASELINE_JOB - 1], after[-1]
    rows = []
    for name, now in last.items():
        then = first.get(name)
        if then is None or then.pid != now.pid:
            rows.append([name, "", mib(now.rss_bytes), "", "", mib(now.anonymous_bytes), "", "new process"])
            continue
        rss = now.rss_bytes / then.rss_bytes
        anonymous = now.anonymous_bytes / then.anonymous_bytes
        rows.append(
            [
                name,
                *(mib(then.rss_bytes), mib(now.rss_bytes), f"{rss:.3f}"),
                *(mib(then.anonymous_bytes), mib(now.anonymous_bytes), f"{anonymous:.3f}"),
                "GREW" if rss > ALLOWED_GROWTH else "",
            ]
        )
    jobs = (f"job {BASELINE_JOB}", f"job {len(after)}", "ratio")
    print_table(("MiB", *(f"rss {j}" for j in jobs), *(f"anon {j}" for j in jobs), ""), rows)


async def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of a worker")
    given = parser.parse_args()
    jobs = [MIX[number % len(MIX)] for number in range(given.jobs)]
    after = await run(Setup(given.checkpoint, threads=given.threads), jobs)
    results = [{name: asdict(memory) for name, memory in memories.items()} for memories in after]
    write_json("memory", results)
    show(after)


if __name__ == "__main__":
    asyncio.run(main())
