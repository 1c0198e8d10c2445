"""The folder that adapters lie in."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from acestage.adapters.adapter import CONFIG_FILE, Adapter, read_adapter
from acestage.errors import CheckpointError, NotFoundError
from acestage.naming import first_names

_SUFFIX = ".safetensors"
_FILES_OF_FOLDERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""What PEFT and diffusers write into a folder."""

_NAMED_COUNT = 20


@dataclass(frozen=True, slots=True)
class ListedAdapter:
    """An entry of the folder.

    Attributes:
        name: by which requests ask for it.
        path: the file, or the folder.
        adapter: what it is; None where it cannot be used.
        problem: why it cannot be used, or None.
    """

    name: str
    path: Path
    adapter: Adapter | None
    problem: str | None = None


class AdapterFolder:
    """Adapters by name: a name is that of a folder of PEFT's or diffusers', or of a file without its ending.

    Names are compared with what lies in the folder, and never become part of a path, so none leads out of it;
    neither does a link. The folder is read anew each time: adapters come and go while services run.

    Args:
        path: the folder, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> Adapter:
        """The adapter called `name`. Blocks for the time that reading its header takes.

        Raises:
            NotFoundError: there is none; says which there are.
            CheckpointError: it cannot be used; says why.
        """
        entries = self._entries()
        if name not in entries:
            raise NotFoundError(f"{name[:100]!r} is not in {self.path}; accepted: {_shown(list(entries))}")
        return self._read(entries[name])

    def listing(self) -> list[ListedAdapter]:
        """Everything that lies there, by name."""
        found = []
        for name, paths in self._entries().items():
            try:
                found.append(ListedAdapter(name, paths[0], self._read(paths)))
            except CheckpointError as error:
                found.append(ListedAdapter(name, paths[0], None, error.message))
        return found

    def _entries(self) -> dict[str, list[Path]]:
        """The paths of each name; more than one where a file and a folder share it."""
        entries: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                entries[path.name].append(path)
            elif path.suffix == _SUFFIX:
                entries[path.stem].append(path)
        return dict(sorted(entries.items()))

    def _read(self, paths: list[Path]) -> Adapter:
        if len(paths) > 1:
            raise CheckpointError(f"{paths[0]}: has the name of {paths[1].name}; accepted: one of the two")
        (path,) = paths
        if not path.is_dir():
            return read_adapter(self._within(path))
        for name in _FILES_OF_FOLDERS:
            if (path / name).exists():
                config = path / CONFIG_FILE
                return read_adapter(
                    self._within(path / name), self._within(config) if config.exists() else None
                )
        raise CheckpointError(f"{path}: has no {' or '.join(_FILES_OF_FOLDERS)}")

    def _within(self, path: Path) -> Path:
        """Where `path` leads, which must be a file in the folder."""
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: leads nowhere") from error
        if not real.is_relative_to(self.path.resolve()) or not real.is_file():
            raise CheckpointError(f"{path}: is not a file in {self.path}")
        return real


def _shown(names: list[str]) -> str:
    if not names:
        return "none, there are no adapters there"
    return first_names(names, _NAMED_COUNT)
