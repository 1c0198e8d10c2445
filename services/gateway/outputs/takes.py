"""The files of a finished job: for each take a master, the ordered format, and its settings beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from acestage.errors import AcestageError
from acestage.generation import Track
from services.gateway.exports.export import write_export
from services.gateway.exports.file_names import file_name
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.sidecar import write_sidecar
from services.gateway.exports.tags import Tags
from services.gateway.jobs.record import JobRecord, Take
from services.runtime.processes.usable_cpus import usable_core_count

log = logging.getLogger(__name__)

MASTER_FORMAT = ExportFormat.wav32
"""What the model made, bit for bit, but for the gain."""


def write_takes(folder: Path, record: JobRecord, tracks: Sequence[Track]) -> tuple[Take, ...]:
    """Writes the files of all `tracks` into `folder`, side by side. It takes seconds: call it in a thread.

    A take whose ordered format cannot be written keeps its master, and says so in its warnings.

    Raises:
        ExportError: not even a master can be written.
    """
    with ThreadPoolExecutor(min(len(tracks), usable_core_count())) as threads:
        return tuple(threads.map(lambda track: _write_take(folder, record, track, len(tracks)), tracks))


def export_name(record: JobRecord, index: int, audio_format: ExportFormat) -> str:
    """What a take's file in `audio_format` is called."""
    take = record.takes[index]
    return _name(record, index, take.seed, len(record.takes), audio_format)


def write_take(folder: Path, record: JobRecord, index: int, audio_format: ExportFormat) -> Path:
    """Makes another format of a finished take from its master, and returns where it is.

    Raises:
        ExportError: it cannot be written.
    """
    take = record.takes[index]
    path = folder / export_name(record, index, audio_format)
    samples = read_master(folder / take.master)
    settings = settings_of(record, take.seed)
    tags = Tags(record.order.name, take.seed, settings)
    fade_ms = record.order.edge_fade_ms
    write_export(path, samples, audio_format, tags=tags, edge_fade_ms=fade_ms)
    return path


def read_master(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The samples [count, 2] of a take; 0.4 MB a second."""
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return samples  # type: ignore[no-any-return]


UNTRAINED = "the model is untrained: what it makes is noise that proves the path, not music"


def settings_of(record: JobRecord, seed: int) -> dict[str, Any]:
    """All settings of a take: generated with them and this seed alone, it is the same again."""
    settings = dict(record.settings or {})
    return settings | {"seed": seed, "seeds": [seed], "batch_size": 1, "title": record.order.title}


def _write_take(folder: Path, record: JobRecord, track: Track, take_count: int) -> Take:
    tags = Tags(record.order.name, track.seed, settings_of(record, track.seed))
    master = f"take-{track.item_index}.wav"
    is_untrained = ((record.settings or {}).get("model") or {}).get("is_untrained")
    warnings = [*track.warnings, *([UNTRAINED] if is_untrained else ())]
    write_export(folder / master, track.audio, MASTER_FORMAT, tags=tags)
    audio_format = record.order.audio_format
    name = _name(record, track.item_index, track.seed, take_count, audio_format)
    try:
        fade_ms = record.order.edge_fade_ms
        write_export(folder / name, track.audio, audio_format, tags=tags, edge_fade_ms=fade_ms)
        write_sidecar(folder / name, tags.settings)
    except AcestageError as error:
        log.warning("export failed: %s", error.message, extra={"job_id": record.job_id})
        warnings.append(f"{audio_format}: {error.message}; the WAV file {master} is kept")
        name = ""
    return Take(
        seed=track.seed,
        sample_count=len(track.audio),
        sample_rate_hz=track.sample_rate_hz,
        gain=track.gain,
        peak=track.peak,
        rms=track.rms,
        samples_sha256=track.samples_sha256,
        master=master,
        file=name,
        warnings=tuple(warnings),
    )


def _name(record: JobRecord, index: int, seed: int, take_count: int, audio_format: ExportFormat) -> str:
    depth = {ExportFormat.wav24: "-24-bit", ExportFormat.wav32: "-32-bit"}.get(audio_format, "")
    return file_name(record.order.name, seed, index + 1, take_count, depth + audio_format.suffix)
