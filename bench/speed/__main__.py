"""The command line of the speed benchmark."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import bench.speed
from bench.results import OUT_DIR
from bench.speed import as_workers, dit, lengths, machine, song, vae, waking
from bench.speed.chart import draw_lengths
from bench.speed.checkpoint import full_size_checkpoint
from bench.speed.report import page
from bench.speed.scope import Scope

RESULTS = OUT_DIR / "bench.json"
PAGE = Path("docs/benchmarks.md")

PARTS: Mapping[str, Callable[[Scope], dict[str, Any]]] = {
    "dit": dit.measure,
    "vae": vae.measure,
    "song": song.measure,
    "waking": waking.measure,
    "lengths": lengths.measure,
}
QUICK_PARTS = ("dit", "vae", "song")
ROUNDS, QUICK_ROUNDS = 5, 3


def main() -> None:
    """Measures, and writes what was found."""
    given = _parser().parse_args()
    if not given.report_only:
        as_workers.take_environment("bench.speed")
        _measure(given)
    if given.report_only or given.write_docs:
        _write_docs(json.loads(RESULTS.read_text()), given.page)


def _measure(given: argparse.Namespace) -> None:
    torch.set_num_threads(given.threads)
    scope = Scope(
        given.checkpoint or str(full_size_checkpoint()),
        thread_count=given.threads,
        round_count=given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS),
        is_quick=given.quick,
    )
    _compile(scope)
    adds = given.add and RESULTS.exists()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if adds else {"parts": {}}
    results["machine"] = machine.describe()
    for name in given.parts or (QUICK_PARTS if given.quick else PARTS):
        results["parts"][name] = _part(name, scope)
        # After each part: what fails later costs no figures.
        OUT_DIR.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(page(results, _chart(given.page)))


def _compile(scope: Scope) -> None:
    """Has the kernels compiled that are not yet, as `acestage up` does; without g++ they stay eager."""
    warmup = [sys.executable, "-m", "acestage", "warmup", f"--checkpoint={scope.checkpoint}", "--device=cpu"]
    subprocess.run(warmup, check=False)


def _part(name: str, scope: Scope) -> dict[str, Any]:
    """What a part found, and under which circumstances."""
    print(f"measuring: {name}", flush=True)
    run = {
        "began": machine.now(),
        "checkpoint": Path(scope.checkpoint).name,
        "thread_count": scope.thread_count,
        "round_count": scope.round_count,
        "is_quick": scope.is_quick,
        "load_average_before": machine.load_average(),
    }
    begun = time.monotonic()
    found = PARTS[name](scope)
    run |= {"seconds": time.monotonic() - begun, "load_average_after": machine.load_average()}
    return {"run": run, **found}


def _write_docs(results: dict[str, Any], path: Path) -> None:
    path.write_text(page(results, _chart(path)))
    if found := results["parts"].get("lengths"):
        draw_lengths(found["lengths"], path.parent / _chart(path))


def _chart(path: Path) -> str:
    """Where the picture of the page at `path` is, as seen from there."""
    return f"images/{path.stem}-lengths.png"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed",
        description=bench.speed.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", help="default: a full-size one with random weights, in out/full-size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, or {QUICK_ROUNDS} with --quick")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), help="default all")
    parser.add_argument("--quick", action="store_true", help="the core figures alone")
    parser.add_argument("--add", action="store_true", help=f"keep the other parts that {RESULTS} has")
    parser.add_argument("--write-docs", action="store_true", help="write the page, too")
    parser.add_argument("--report-only", action="store_true", help=f"write the page from {RESULTS}, no more")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"where the page is written; default {PAGE}")
    return parser


if __name__ == "__main__":
    main()
