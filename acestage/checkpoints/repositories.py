"""The published checkpoints: where they are, and where they go in the checkpoints folder."""

from __future__ import annotations

from dataclasses import dataclass

from acestage.checkpoints.original_layout import SILENCE_LATENT_FILE, TEXT_ENCODER_FOLDER, VAE_FOLDER
from acestage.errors import NotFoundError

MAIN_REPO_ID = "ACE-Step/Ace-Step1.5"

_WEIGHTS = ("*.safetensors", "*.json", SILENCE_LATENT_FILE)
_TOKENIZER = ("*.json", "merges.txt", "*.jinja")


def _in(folder: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}/{pattern}" for pattern in patterns)


SHARED_PATTERNS = (
    *_in(VAE_FOLDER, ("*.safetensors", "*.json")),
    *_in(TEXT_ENCODER_FOLDER, ("*.safetensors", *_TOKENIZER)),
)
"""Files of the main repository that all variants in the original layout share. No pattern takes code."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A published checkpoint.

    Attributes:
        name: what users call it.
        repo_id: on the Hugging Face Hub.
        folder: where the model is in the checkpoints folder.
        root: where the repository's files go, relative to the checkpoints folder.
        patterns: the files that are needed of it.
        needs_shared: the VAE and the text encoder come from the main repository.
    """

    name: str
    repo_id: str
    folder: str
    root: str
    patterns: tuple[str, ...]
    needs_shared: bool


def _variant(name: str) -> Repository:
    folder = f"acestep-v15-{name}"
    return Repository(name, f"ACE-Step/{folder}", folder, folder, _WEIGHTS, needs_shared=True)


REPOSITORIES = {
    repository.name: repository
    for repository in (
        # The main repository also has a language model of several GB, which the patterns leave out.
        Repository(
            "turbo",
            MAIN_REPO_ID,
            "acestep-v15-turbo",
            ".",
            (*_in("acestep-v15-turbo", _WEIGHTS), *SHARED_PATTERNS),
            needs_shared=False,
        ),
        _variant("base"),
        _variant("sft"),
        _variant("turbo-shift1"),
        _variant("turbo-shift3"),
        _variant("turbo-continuous"),
        _variant("xl-base"),
        _variant("xl-sft"),
        _variant("xl-turbo"),
        Repository(
            "xl-turbo-diffusers",
            "ACE-Step/acestep-v15-xl-turbo-diffusers",
            "acestep-v15-xl-turbo-diffusers",
            "acestep-v15-xl-turbo-diffusers",
            ("model_index.json", *_in("*", ("*.safetensors", *_TOKENIZER))),
            needs_shared=False,
        ),
    )
}


def find_repository(name: str) -> Repository:
    """The repository that users call `name`.

    Raises:
        NotFoundError: there is none; lists those that are known.
    """
    if name not in REPOSITORIES:
        raise NotFoundError(f"no published checkpoint is called {name!r}; known: {', '.join(REPOSITORIES)}")
    return REPOSITORIES[name]
