"""What a command says of the song that it got: files, notes, and the summary or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from acestage.cli.output import SavedTrack
from acestage.cli.terminal import print_json, print_label, whole_table
from acestage.cli.untrained import note_untrained
from acestage.generation import Generation, ProcessMemory, Track
from acestage.planning import MIB


def print_result(
    console: Console,
    generation: Generation,
    files: Sequence[SavedTrack],
    *,
    first_audio_s: float | None,
    as_json: bool,
) -> None:
    """Prints where the tracks lie and what is to be known of them, and the summary, or JSON on stdout."""
    for file in files:
        print_saved(console, file)
    for clamped in generation.clamped:
        limit = clamped.limit
        note = f"{clamped.field}: {clamped.requested:.10g} was lowered to {limit.value:g} ({limit.source})"
        print_label(console, "Note:", note)
    if generation.settings.model.is_untrained:
        note_untrained(console, generation.settings.model.name)
    if as_json:
        print_json(_to_json(generation, files, first_audio_s))
    else:
        _print_summary(console, generation, first_audio_s)


def print_saved(console: Console, file: SavedTrack) -> None:
    """Says where a track lies, and what is to be known of it."""
    if file.failure is not None:
        print_label(console, "Error:", file.failure, "red")
    track = file.track
    console.print(f"Wrote {file.path}: {track.duration_s:.2f} s, seed {track.seed}", soft_wrap=True)
    for warning in track.warnings:
        print_label(console, "Warning:", f"{file.path}: {warning}")


def _print_summary(console: Console, generation: Generation, first_audio_s: float | None) -> None:
    """Stage times, who held the lease when, when audio came, and the peak memory of every process."""
    begin = min(stage.started_at for stage in generation.stages)
    stages = whole_table("stage", "load", "compute", "on the device", "planned", "token", title="Stages")
    for stage in generation.stages:
        start = (stage.started_at - begin).total_seconds()
        stop = (stage.ended_at - begin).total_seconds()
        stages.add_row(
            stage.stage,
            f"{stage.load_s:.2f} s",
            f"{stage.compute_s:.2f} s",
            f"{start:.2f} s to {stop:.2f} s",
            f"{stage.planned_bytes / MIB:.0f} MiB",
            str(stage.fencing_token),
        )
    console.print(stages)
    if first_audio_s is not None:
        console.print(f"First audio after {first_audio_s:.1f} s.")
    for stage in generation.stages:
        for adaptation in stage.adaptations:
            text = f"{stage.stage} went from {adaptation.before} to {adaptation.after}: {adaptation.cause}"
            print_label(console, "Note:", text)
    memory = whole_table("process", "pid", "peak memory", title="Processes")
    for process in generation.processes:
        memory.add_row(process.name, str(process.pid), f"{process.peak_rss_bytes / MIB:.0f} MiB")
    console.print(memory)


def _to_json(
    generation: Generation, files: Sequence[SavedTrack], first_audio_s: float | None
) -> dict[str, Any]:
    paths = {file.track.item_index: str(file.path) for file in files}
    stages = [
        {
            "stage": stage.stage,
            "load_s": stage.load_s,
            "compute_s": stage.compute_s,
            "started_at": stage.started_at.isoformat(),
            "ended_at": stage.ended_at.isoformat(),
            "fencing_token": stage.fencing_token,
            "planned_bytes": stage.planned_bytes,
            "peak_device_bytes": stage.peak_device_bytes,
            "adaptations": [asdict(adaptation) for adaptation in stage.adaptations],
            "kernels": stage.kernels,
        }
        for stage in generation.stages
    ]
    return {
        "job_id": generation.job_id,
        "settings": generation.settings.to_dict(),
        "clamped": [asdict(clamped) for clamped in generation.clamped],
        "tracks": [_track(track, paths.get(track.item_index)) for track in generation.tracks],
        "total_s": generation.total_s,
        "run_s": generation.run_s,
        "first_audio_s": first_audio_s,
        "decode_cost": asdict(generation.decode_cost) if generation.decode_cost else None,
        "stages": stages,
        "peak_rss_bytes": _peak_rss_bytes(generation.processes),
    }


def _peak_rss_bytes(processes: Iterable[ProcessMemory]) -> dict[str, int]:
    """By the name of the process; of several, such as the workers of a stage that worked twice, the most."""
    peaks: dict[str, int] = {}
    for process in processes:
        peaks[process.name] = max(process.peak_rss_bytes, peaks.get(process.name, 0))
    return peaks


def _track(track: Track, path: str | None) -> dict[str, Any]:
    """`path`: None where no file was asked for."""
    return {
        "path": path,
        "seed": track.seed,
        "duration_s": track.duration_s,
        "sample_rate_hz": track.sample_rate_hz,
        "gain": track.gain,
        "peak": track.peak,
        "rms": track.rms,
        "samples_sha256": track.samples_sha256,
        "warnings": list(track.warnings),
    }
