"""A file of the store: samples (interleaved stereo, float32), facts about them as JSON, and its length."""

from __future__ import annotations

import os
from pathlib import Path

from services.orchestrator.uploads.audio_facts import AudioFacts

ENDING = ".audio"
_LENGTH_BYTES = 4


def append_facts(path: Path, facts: AudioFacts) -> int:
    """Writes `facts` behind the samples in the file `path`, and all of it to disk; returns its bytes."""
    with path.open("ab") as file:
        text = facts.to_json().encode()
        file.write(text + len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_facts(path: Path) -> tuple[AudioFacts, int]:
    """The facts in the file `path`, and its bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what `append_facts` wrote.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        byte_count = file.seek(0, os.SEEK_END)
        file.seek(max(byte_count - _LENGTH_BYTES, 0))
        text_bytes = int.from_bytes(file.read(), "little")
        text_start = byte_count - _LENGTH_BYTES - text_bytes
        if text_start <= 0:
            raise ValueError(f"its last bytes speak of {text_bytes} bytes of facts, it has {byte_count}")
        file.seek(text_start)
        facts = AudioFacts.from_json(file.read(text_bytes))
    if facts.samples_bytes != text_start or f"{facts.audio_id}{ENDING}" != path.name:
        raise ValueError(f"it has {text_start} bytes of samples; its facts say {facts}")
    return facts, byte_count
