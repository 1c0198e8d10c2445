"""What two checkpoints have in common: the same architecture, or even the same weights."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from pathlib import Path

from acestage.checkpoints.checkpoint import Checkpoint
from acestage.checkpoints.component_names import TEXT_ENCODER

Architecture = Mapping[str, object]
"""What decides the shapes of all that components compute, as JSON values."""

Stamps = Mapping[str, Sequence[int]]
"""By path, what is another number once a file was changed."""

_SAMPLE_BYTES = 4 << 20
"""More than the header of a file, so that weights that differ show without reading all of them."""


def architecture_of(checkpoint: Checkpoint, names: Sequence[str]) -> Architecture:
    """How those of the components called `names` are built that are there, and the rate of latent frames."""
    settings = {
        component.name: _without_origin(component.config.values)
        for component in checkpoint.components
        if component.name in names
    }
    return {"latent_frame_rate_hz": checkpoint.model.latent_frame_rate_hz, **settings}


def have_same_weights(one: Checkpoint, other: Checkpoint, names: Sequence[str]) -> bool:
    """Whether the components called `names` do the same in both checkpoints.

    They do where they are built alike, and their files are the same or equal copies. The tokenizer counts
    as a part of the text encoder. Reads files to their end only where nothing before tells them apart.
    """
    if architecture_of(one, names) != architecture_of(other, names):
        return False
    files, counterparts = _files(one, names), _files(other, names)
    if [key for key, _ in files] != [key for key, _ in counterparts]:
        return False
    pairs = [(mine, theirs) for (_, mine), (_, theirs) in zip(files, counterparts, strict=True)]
    apart = [(mine, theirs) for mine, theirs in pairs if not mine.samefile(theirs)]
    return (
        all(mine.stat().st_size == theirs.stat().st_size for mine, theirs in apart)
        and all(_sample(mine) == _sample(theirs) for mine, theirs in apart)
        and all(filecmp.cmp(mine, theirs, shallow=False) for mine, theirs in apart)
    )


def stamps_of(checkpoint: Checkpoint, names: Sequence[str]) -> Stamps:
    """The size and the times of the last change of all files that make the components called `names`.

    Whoever copies a file may keep the time of its content, but not that of its place on the disk.
    """
    stats = {str(file.resolve()): file.stat() for _, file in _files(checkpoint, names)}
    return {path: (found.st_size, found.st_mtime_ns, found.st_ctime_ns) for path, found in stats.items()}


def _without_origin(settings: Mapping[str, object]) -> dict[str, object]:
    """Without those that only say where the component comes from."""
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def _files(checkpoint: Checkpoint, names: Sequence[str]) -> list[tuple[object, Path]]:
    """The files that make the components, each with what it stands for."""
    found: list[tuple[object, Path]] = []
    for component in (part for part in checkpoint.components if part.name in names):
        key = (component.name, component.scheme)
        found.extend(((*key, index), shard) for index, shard in enumerate(component.weights.shards))
        if component.silence_latent is not None:
            found.append(((*key, "silence"), component.silence_latent))
    if TEXT_ENCODER in names:
        tokenizer = (file for file in checkpoint.tokenizer_path.iterdir() if file.suffix in (".json", ".txt"))
        found.extend((file.name, file) for file in sorted(tokenizer))
    return found


def _sample(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_SAMPLE_BYTES)
