"""The page that tells what the speed benchmark found: a function of its results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.results import spread
from bench.speed.tables import ratios, signed_percent, table, whole_mib

Found = Mapping[str, Any]

INTRODUCTION = """\
# Benchmarks

Written by `python -m bench.speed` from its results; `make bench-quick` measures the core figures alone. A
figure is the median of all rounds, with the smallest and the largest in brackets. Ratios are seconds of
`diffusers` by seconds of ours, taken within a round: above 1, ours is faster. Both compute in the same
process, on the same weights and with the same number of threads, in turns, in the environment and with the
C library's heap that a worker has; by itself, with that heap's defaults, `diffusers` is slower. Ours has
compiled kernels where there is g++; they are compiled beforehand. Our data type is the one that services
take on such a processor, and `diffusers` has the same. Other work on the machine makes seconds noisy, and
ratios less so. "load" is the load average before and after each part, the benchmark's own work included."""


DASHES = "Dashed lines of time go on from 60 s in proportion."


def page(results: Found, chart: str) -> str:
    """The page in Markdown, with a section for each part that was measured.

    Args:
        results: of all parts.
        chart: where the picture of time and memory by length is, as seen from the page.
    """
    parts: Mapping[str, Found] = results["parts"]
    sections = [INTRODUCTION, _machine(results["machine"]), _runs(parts)]
    sections += [write(parts[name]) for name, write in SECTIONS.items() if name in parts]
    if "lengths" in parts:
        sections += [f"![Time and memory by length]({chart})", DASHES]
    return "\n\n".join(sections) + "\n"


def _machine(machine: Found) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join(
        (
            f"- processor: {machine['cpu']}, {machine['cpu_count']} CPUs with"
            f" {', '.join(machine['cpu_flags']) or 'none of the extensions that matter here'}",
            f"- memory: {machine['memory_bytes'] / 2**30:.0f} GiB",
            f"- versions: {versions}",
        )
    )


def _runs(parts: Mapping[str, Found]) -> str:
    rows = []
    for name, part in parts.items():
        run = part["run"]
        load = f"{run['load_average_before']:.1f}, {run['load_average_after']:.1f}"
        rows.append(
            [
                name + (" (quick)" if run["is_quick"] else ""),
                run["began"],
                run["checkpoint"],
                *(str(run[key]) for key in ("thread_count", "round_count")),
                f"{run['seconds']:.0f}",
                load,
            ]
        )
    return table(("part", "began", "checkpoint", "threads", "rounds", "seconds", "load"), rows)


def _dit(found: Found) -> str:
    rows = []
    for length in found["lengths"]:
        jobs = length["jobs"]
        later = {way: [s for job in jobs for s in job[way][1:]] for way in jobs[0]}
        for way, steps_s in later.items():
            rows.append(
                [
                    f"{length['duration_s']} s, {way}",
                    spread(steps_s, 3),
                    "" if way == "diffusers" else ratios(later["diffusers"], steps_s),
                    spread([job[way][0] for job in jobs], 3),
                ]
            )
    apart, weights, errors = found["distances"], found["weights_bytes"], found["block_errors"]
    dtype = found["dtype"]
    mib = {name: whole_mib(byte_count) for name, byte_count in weights.items()}
    return f"""\
## A step of the DiT

Batch 1, no guidance, {found["token_count"]} tokens of condition; kernels {found["kernels"]}. "{dtype}" and
"int8" are ours, with the weights held so; all compute in {dtype}. The first step of a job has in it
what is done once a job, and is no part of the others.

{table(("song", "step s", "ratio", "first step s"), rows)}

After all {apart["step_count"]} steps for {apart["duration_s"]} s from the same noise, the latents of ours in
{dtype} are {apart["precise_from_diffusers"]:.1e} from those of diffusers, and ours with int8 weights
{apart["int8_from_precise"]:.1e} from ours in {dtype}: the L2 norm of the difference, in parts of that of
the latents. With eager kernels ours in {dtype} are {apart["eager_from_compiled"]:.1e} from those with
compiled ones. In one pass the tokens with int8 weights are {errors[0]:.1e} from those in {dtype} after
the first of {len(errors)} blocks, {max(errors):.1e} after the worst, and {errors[-1]:.1e} after the last.
On the device the weights take {mib["diffusers"]} MiB as diffusers has them, {mib[dtype]} in
{dtype}, and {mib["int8"]} as int8: {weights["int8"] / weights["diffusers"]:.1%} of the first,
{weights["int8"] / weights[dtype]:.1%} of the second."""


def _vae(found: Found) -> str:
    rows = []
    for length in found["lengths"]:
        rounds, seconds = length["rounds"], length["duration_s"]
        totals = {way: [one[way]["total_s"] for one in rounds] for way in rounds[0]}
        for way, total_s in totals.items():
            is_ours = not way.startswith("diffusers")
            others = {other: theirs for other, theirs in totals.items() if other.startswith("diffusers")}
            rows.append(
                [
                    f"{seconds} s, {way}",
                    spread([total / seconds for total in total_s], 3),
                    spread([one[way]["first_s"] for one in rounds], 2),
                    "; ".join(f"{ratios(s, total_s)} to {other[10:]}" for other, s in others.items())
                    if is_ours
                    else "",
                    f"{length['distances'][way]:.1e}",
                ]
            )
    return f"""\
## A decode of the VAE

"{found["dtype"]}" is ours, with the default tiles of {found["tile_frame_count"]} latent frames and
their halos, and kernels {found["kernels"]}.
diffusers decodes a song whole, in float32 unless it is told otherwise, and a long one with its own tiling.
The distance is from the first way of each length, in parts of its largest magnitude.

{table(("song", "s for a second of audio", "first audio s", "ratio", "distance"), rows)}"""


def _song(found: Found) -> str:
    rounds, seconds = found["rounds"], found["duration_s"]
    rows = []
    for way in rounds[0]:
        songs = [one[way] for one in rounds]
        rows.append(
            [
                way,
                spread([song["total_s"] for song in songs], 2),
                spread([seconds / song["total_s"] for song in songs], 2),
                spread([song["first_audio_s"] - song["last_step_s"] for song in songs], 2),
            ]
        )
    totals = {way: [one[way]["total_s"] for one in rounds] for way in rounds[0]}
    split = ""
    if "one process" in totals:
        percent = signed_percent(totals["services"], totals["one process"])
        split = (
            f"\n\nThat it is split into services makes a song take {percent} % longer than in one process."
        )
    sizes = ("peak_rss_bytes", "anonymous_bytes", "planned_bytes")
    processes = [[one["name"], *(whole_mib(one[key]) for key in sizes)] for one in found["processes"]]
    return f"""\
## A song from end to end

{seconds:g} s, {found["step_count"]} steps, {found["dtype"]}, through all services with warm workers. The
first one after their start took {found["first"]["total_s"]:.1f} s and does not count. "one process" calls the
same engines one after the other; "int8" has INT8 weights in text encoder and DiT.

{table(("", "s in all", "seconds of audio a second", "last step to first audio s"), rows)}{split}

### Memory of the processes

For the first song, in which the workers wake: the most that was resident in each process, with the mapped
weights that it read; the most that the kernel could not have dropped, as samples show it; and the planner's
figure. A worker begins as a copy of its preload, whose pages count as resident in both and in no plan.

{table(("MiB", "peak resident", "anonymous", "planned"), processes)}"""


def _waking(found: Found) -> str:
    rows = []
    for stage in dict.fromkeys(wake["stage"] for wake in found["wakes"]):
        for is_warm in (False, True):
            wakes = [w for w in found["wakes"] if (w["stage"], w["is_warm"]) == (stage, is_warm)]
            if wakes:
                rows.append(
                    [
                        f"{stage}, {'warm' if is_warm else 'cold'}",
                        str(len(wakes)),
                        *(spread([wake[key] for wake in wakes], 2) for key in WAKE_COLUMNS),
                    ]
                )
    return f"""\
## Waking a worker

For songs of {found["duration_s"]:g} s with {found["step_count"]} step. Cold means a device of
{found["small_device_gb"]:g} GB, where each song wakes a worker of every stage; warm, one with room for all.
"wake" is what goes by until the weights are there. Mapped weights that nothing has to rearrange are read by
the first job, and are in "compute".

{table(("", "n", "wake s", "lease wait s", "compute s"), rows)}"""


WAKE_COLUMNS = ("load_s", "lease_wait_s", "compute_s")


def _lengths(found: Found) -> str:
    headers = (
        "",
        "DiT step s",
        "VAE s",
        *(f"{stage} {what} MiB" for stage in ("DiT", "VAE") for what in SIZES),
    )
    lengths = [[f"{row['duration_s']} s", *_cost(row)] for row in found["lengths"]]
    batches = [[f"batch {row['item_count']}", *_cost(row)] for row in found["batches"]]
    return f"""\
## Cost by length and batch

Each row once, in {found["dtype"]}, in processes of their own: the second denoising step, and a decode
with the default tiles. The measured memory is by how much the resident memory of the process grew at most,
from before its weights were there, mapped weights included, and with what the C library keeps of freed
blocks; the planner counts a process's own pages without these, a reserve and the longest prompt.

{table(headers, lengths)}

Songs of {found["batch_duration_s"]} s at once:

{table(headers, batches)}"""


SIZES = ("measured", "planned")


def _cost(row: Found) -> list[str]:
    stages = [row["dit"], row["vae"]]
    times = [f"{stage['seconds']:.2f}" for stage in stages]
    return times + [whole_mib(stage[key]) for stage in stages for key in ("peak_bytes", "planned_bytes")]


SECTIONS: Mapping[str, Callable[[Found], str]] = {
    "dit": _dit,
    "vae": _vae,
    "song": _song,
    "waking": _waking,
    "lengths": _lengths,
}
"""By part, in the order of the page."""
