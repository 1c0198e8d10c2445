"""Which seeds a request means."""

from __future__ import annotations

import random
from typing import Any

from services.gateway.rest.orders.field_values import MAX_LIST_LENGTH, FieldValues
from services.gateway.rest.orders.song_fields import read

DRAWN = -1
_END = 2**32
"""Of those that are drawn, as the orchestrator draws them."""


def seed_options(values: FieldValues, notes: list[str], *, is_forgiving: bool) -> dict[str, Any]:
    """The options of a generation for its seeds, and for its takes where there are several seeds.

    A seed that was sent counts, unless a random one was asked for in so many words. Settings of a song say
    `seeds` beside the first one.

    Args:
        values: of the request, where wrong ones are noted.
        notes: for people; what is left out or drawn is added.
        is_forgiving: of more seeds than takes the first ones count, and missing ones are drawn, as upstream
            has it.
    """
    name = "seed" if values.fields.find("seeds") is None else "seeds"
    seeds: list[int] = read(values, name) or []
    if read(values, "use_random_seed") or not seeds or seeds == [DRAWN]:
        return {}
    if len(seeds) == 1:
        return {"seed": seeds[0]}
    batch_size = read(values, "batch_size")
    take_count = len(seeds) if batch_size is None else batch_size
    if is_forgiving and 1 <= take_count <= MAX_LIST_LENGTH:
        return _fitted(seeds, take_count, values.fields.spelling(name), notes)
    if take_count != len(seeds):
        values.refuse(name, f"has {len(seeds)} seeds; accepted: one, or one for each of {take_count} takes")
    if set(seeds) == {DRAWN}:
        return {"batch_size": len(seeds)}
    if DRAWN in seeds:
        values.refuse(name, "has -1 beside others; accepted: seeds from 0 on, or -1 for all")
    return {"seeds": seeds, "batch_size": None}


def _fitted(seeds: list[int], take_count: int, name: str, notes: list[str]) -> dict[str, Any]:
    """As many as there are takes."""
    if len(seeds) > take_count:
        notes.append(f"{name}: of {len(seeds)} seeds the first ones count, one for each take")
    fitted = (seeds + [DRAWN] * take_count)[:take_count]
    if set(fitted) == {DRAWN}:
        return {"batch_size": take_count}
    if DRAWN in fitted:
        notes.append(f"{name}: seeds were drawn for takes that had none")
    fitted = [random.randrange(_END) if seed == DRAWN else seed for seed in fitted]
    return {"seeds": fitted, "batch_size": None}
