"""What was measured before, on disk: nobody waits for the same measurement twice. No torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import services
from acestage import checkpoints, planning
from acestage.atomic_file import replacing
from acestage.checkpoints.likeness import Architecture
from acestage.planning import StageMemory
from acestage.protos.stage.v1 import stage_pb2
from services.runtime.processes.cpu_features import cpu_digest
from services.runtime.processes.private_folder import make_private

log = logging.getLogger(__name__)

LIBRARIES = ("diffusers", "peft", "torch", "torchao", "transformers")
"""Whose code a measurement runs."""
SOURCES = (
    Path(services.__file__).parent,
    Path(checkpoints.__file__).parent,
    Path(planning.__file__).parent,
)
"""Folders of our own code that it runs."""


def file_digests(folders: Sequence[Path]) -> list[str]:
    """The names and digests of all Python files below `folders`; a few milliseconds for a megabyte."""
    return [
        f"{file.relative_to(folder)} {sha256(file.read_bytes()).hexdigest()}"
        for folder in folders
        for file in sorted(folder.rglob("*.py"))
    ]


_CODE = file_digests(SOURCES)
"""As it is imported: under a process that goes on, files may change."""


class Measurements:
    """Measurements in a folder, each in a file that is called by the digest of all that it depends on.

    A file holds a checksum and a `StageMemory`. What cannot be read or written is measured again.

    Args:
        cache_dir: the folder's parent; both are created where they are missing.
        code: stands for our code; after a change of it nothing is found any more.
    """

    def __init__(self, cache_dir: Path, code: Sequence[str] = _CODE) -> None:
        self._folder = cache_dir / "measurements"
        self._code = [
            cpu_digest(),  # kernels take what their instructions need
            *(f"{name} {metadata.version(name)}" for name in LIBRARIES),
            *code,
        ]

    def digest(self, stage: str, architecture: Architecture, dtype: str, cpu_thread_count: int | None) -> str:
        """The digest of all that a measurement depends on.

        Args:
            stage: "text_encoder", "dit" or "vae".
            architecture: of the components that the stage uses.
            dtype: name of the data type to compute in.
            cpu_thread_count: as in `StageWorker.memory`.
        """
        basis = [stage, architecture, dtype, cpu_thread_count, self._code]
        return sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()

    def find(self, digest: str) -> StageMemory | None:
        """What was kept; None where there is nothing, or nothing that can be used."""
        path = self._folder / digest
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.info("%s cannot be read, so it is measured again: %s", path, error)
            return None
        size = sha256().digest_size
        checksum, memory = content[:size], content[size:]
        if sha256(memory).digest() != checksum:
            log.info("%s is damaged, so it is measured again", path)
            return None
        return StageMemory.from_pb(stage_pb2.StageMemory.FromString(memory))

    def keep(self, digest: str, memory: StageMemory) -> None:
        """Writes `memory` where `find` finds it; others see all of it or nothing."""
        data = memory.to_pb().SerializeToString()
        path = self._folder / digest
        try:
            make_private(self._folder)
            with replacing(path) as part:
                part.write_bytes(sha256(data).digest() + data)
        except OSError as error:
            log.info("%s cannot be written, so it will be measured again: %s", path, error)
