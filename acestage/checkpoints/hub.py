"""Downloads published checkpoints from the Hugging Face Hub into the checkpoints folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from acestage.checkpoints.opening import open_checkpoint
from acestage.checkpoints.original_layout import TEXT_ENCODER_FOLDER, VAE_FOLDER
from acestage.checkpoints.repositories import MAIN_REPO_ID, SHARED_PATTERNS, find_repository
from acestage.checkpoints.stored import stored_tensors
from acestage.errors import UnavailableError

CONNECT_TIMEOUT_S = 10.0
"""How long the Hub may take to answer at all; the library itself would wait without end."""

_SHARED_FILES = (
    f"{VAE_FOLDER}/config.json",
    f"{VAE_FOLDER}/diffusion_pytorch_model.safetensors",
    f"{TEXT_ENCODER_FOLDER}/config.json",
    f"{TEXT_ENCODER_FOLDER}/model.safetensors",
    f"{TEXT_ENCODER_FOLDER}/tokenizer.json",
)


def pull(name: str, checkpoints_dir: Path, *, endpoint: str | None = None) -> Path:
    """Downloads the published checkpoint `name`, and the parts that it shares with others where missing.

    Continues an interrupted download, and shows its progress on standard error. Takes weights,
    configurations and tokenizers only, never code.

    Args:
        name: such as `turbo` or `xl-base`.
        checkpoints_dir: where it goes; made if it is not there.
        endpoint: address of a mirror of the Hub.

    Returns:
        The folder to open.

    Raises:
        NotFoundError: no published checkpoint is called so.
        UnavailableError: the Hub cannot be reached or refuses; says how to bring the files by hand.
        CheckpointError: what was downloaded is not a checkpoint.
    """
    repository = find_repository(name)
    downloads = [_Download(repository.repo_id, repository.patterns, repository.root)]
    if repository.needs_shared and not all((checkpoints_dir / file).is_file() for file in _SHARED_FILES):
        downloads.append(_Download(MAIN_REPO_ID, SHARED_PATTERNS, "."))
    _fetch(downloads, checkpoints_dir, endpoint)
    checkpoint = open_checkpoint(checkpoints_dir / repository.folder, checkpoints_dir=checkpoints_dir)
    for component in checkpoint.components:
        stored_tensors(component)
    return checkpoint.path


@dataclass(frozen=True, slots=True)
class _Download:
    """Files of a repository that match `patterns`, for `folder` relative to the checkpoints folder."""

    repo_id: str
    patterns: tuple[str, ...]
    folder: str

    def command(self, base: str) -> str:
        includes = [word for pattern in self.patterns for word in ("--include", pattern)]
        target = Path(base, self.folder).as_posix()
        return shlex.join(["hf", "download", self.repo_id, *includes, "--local-dir", target])


def _fetch(downloads: Sequence[_Download], checkpoints_dir: Path, endpoint: str | None) -> None:
    # Imported late: it takes a third of a second, which processes that only open checkpoints can save.
    from huggingface_hub import HfApi, snapshot_download

    # Base of the errors of the library's HTTP client, whichever that is.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    for download in downloads:
        try:
            # Asked first, because `snapshot_download` takes a folder that is not empty for a finished
            # download when it cannot reach the Hub.
            info = HfApi(endpoint=endpoint).model_info(download.repo_id, timeout=CONNECT_TIMEOUT_S)
            snapshot_download(
                download.repo_id,
                revision=info.sha,
                local_dir=checkpoints_dir / download.folder,
                allow_patterns=list(download.patterns),
                endpoint=endpoint,
            )
        # The library's accelerated transfer raises plain RuntimeErrors.
        except (OSError, HTTPError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            base = checkpoints_dir.absolute()
            commands = "\n".join(f"  {each.command(base.name)}" for each in downloads)
            raise UnavailableError(
                f"cannot download {download.repo_id}: {reason}. On a machine that can, run\n{commands}\n"
                f"and copy what is then in the folder {base.name} to {base}",
                metadata={"repo_id": download.repo_id},
            ) from error
