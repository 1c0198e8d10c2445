"""The files of a generation: checked before the work begins, written when it is done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from acestage.audio_file import AudioFormat, BitDepth
from acestage.errors import FailedPreconditionError
from acestage.generation import Generation, PreviewCompleted, Track


@dataclass(frozen=True, slots=True)
class SavedTrack:
    """Where a track lies. `failure` says why it is not where it was meant to be."""

    track: Track
    path: Path
    failure: str | None = None


def check_output(output: Path | None) -> None:
    """Raises `typer.BadParameter` where `output`, or the working folder in its place, cannot be written."""
    if output is not None:
        check_file(output, "--output")
    elif (problem := _folder_problem(Path.cwd())) is not None:
        raise typer.BadParameter(problem, param_hint="--output")


def check_file(path: Path, flag: str) -> None:
    """Raises `typer.BadParameter` where `path`, which `flag` gave, cannot be written."""
    try:
        problem = _file_problem(path)
    except OSError as error:
        problem = str(error)
    if problem is not None:
        raise typer.BadParameter(problem, param_hint=flag)


def _file_problem(path: Path) -> str | None:
    if path.is_dir():
        return f"{path} is a folder, not a file"
    if path.exists():
        return None if os.access(path, os.W_OK) else f"{path} is not writable"
    problem = _folder_problem(path.absolute().parent)
    return problem and f"{path} cannot be made: {problem}"


def _folder_problem(folder: Path) -> str | None:
    """Why no file can be made in `folder`, which is made too where it does not exist."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


def save(
    generation: Generation, output: Path | None, audio_format: AudioFormat, bit_depth: BitDepth
) -> list[SavedTrack]:
    """Writes one file a track; several tracks get their number before the suffix.

    A track that cannot be written where it is meant to be goes to a temporary folder, so that it is not lost.

    Raises:
        FailedPreconditionError: it cannot be written there either.
    """
    return _save(generation.tracks, output, f"acestage-{generation.settings.seed}", audio_format, bit_depth)


def save_preview(
    preview: PreviewCompleted, output: Path | None, audio_format: AudioFormat, bit_depth: BitDepth
) -> list[SavedTrack]:
    """Writes a preview as `save` does a song, with "preview" before the suffix; raises as `save` does."""
    beside = None if output is None else output.with_name(f"{output.stem}.preview{output.suffix}")
    name = f"acestage-{preview.tracks[0].seed}.preview"
    return _save(preview.tracks, beside, name, audio_format, bit_depth)


def _save(
    tracks: Sequence[Track],
    output: Path | None,
    default_name: str,
    audio_format: AudioFormat,
    bit_depth: BitDepth,
) -> list[SavedTrack]:
    default = Path(f"{default_name}.{audio_format}")
    saved = []
    for track in tracks:
        path = _numbered(output or default, track, len(tracks))
        try:
            track.save(path, audio_format=audio_format, bit_depth=bit_depth)
            saved.append(SavedTrack(track, path))
        except (OSError, ValueError) as error:
            spare_name = _numbered(default, track, len(tracks)).name
            try:
                spare = Path(tempfile.mkdtemp(prefix="acestage-"), spare_name)
                track.save(spare, audio_format=audio_format, bit_depth=bit_depth)
            except OSError as spare_error:
                raise FailedPreconditionError(f"{error}; {spare_error}") from error
            saved.append(
                SavedTrack(track, spare, f"{path} could not be written ({error}); the track is in {spare}")
            )
    return saved


def _numbered(path: Path, track: Track, count: int) -> Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{track.item_index + 1}{path.suffix}")
