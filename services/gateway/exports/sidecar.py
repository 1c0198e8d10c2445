"""The settings in a file of their own, beside the audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acestage.atomic_file import replacing
from acestage.errors import ExportError
from services.gateway.exports.settings_json import settings_text


def write_sidecar(path: Path, settings: dict[str, Any]) -> None:
    """Writes `settings` beside the audio file `path`, under its name with ".json".

    Raises:
        InvalidArgumentError: the settings are no JSON, or too large.
        ExportError: the file cannot be written; then there is nothing new in the folder.
    """
    sidecar = path.with_suffix(".json")
    text = settings_text(settings, indent=2) + "\n"
    try:
        with replacing(sidecar) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ExportError(f"{sidecar.name} cannot be written: {error.strerror or error}") from error
