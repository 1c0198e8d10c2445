"""What a run of the speed benchmark measures, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from acestage.checkpoints import Checkpoint, open_checkpoint
from services.planner.architecture import transformer_dtype
from services.runtime.devices.devices import resolve_dtype

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is measured.

    Attributes:
        checkpoint: a folder, or a name.
        thread_count: of the process that computes, ours or a worker.
        round_count: rounds that count; what warms up comes besides.
        is_quick: the core figures alone.
    """

    checkpoint: str
    thread_count: int
    round_count: int
    is_quick: bool

    def open(self) -> Checkpoint:
        """The checkpoint; reads JSON files only."""
        return open_checkpoint(self.checkpoint, checkpoints_dir=Path("checkpoints"))

    def dtype(self) -> torch.dtype:
        """What services compute in on this CPU, unless they are told otherwise; reads headers only."""
        found: torch.dtype = getattr(torch, resolve_dtype("auto", "cpu", transformer_dtype(self.open())))
        return found


def name_of(dtype: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def interleaved(passes: Mapping[str, Callable[[], Result]], round_count: int) -> Iterator[dict[str, Result]]:
    """The results of `passes` by name, round by round.

    A round does each pass once, and every other round does them in the opposite order, so that what else
    happens on the machine hits all of them alike.
    """
    for number in range(round_count):
        names = list(passes) if number % 2 == 0 else list(passes)[::-1]
        found = {name: passes[name]() for name in names}
        yield {name: found[name] for name in passes}
