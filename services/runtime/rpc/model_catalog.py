"""The models of a stage, for its servicers."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.checkpoints import ModelFacts
from acestage.checkpoints.model_names import find_name


class ModelCatalog:
    """Facts about every model that a stage hosts, by name; the first is the default."""

    def __init__(self, models: Sequence[ModelFacts]) -> None:
        self._models = {model.name: model for model in models}

    @property
    def models(self) -> tuple[ModelFacts, ...]:
        """All of them, the default first."""
        return tuple(self._models.values())

    def resolve(self, asked: str, field: str) -> ModelFacts:
        """The model that a request means by `asked`: a name, a published short name, or "" for the default.

        Raises:
            InvalidArgumentError: it means none, and `field` is wrong.
        """
        return self._models[find_name(tuple(self._models), asked, field)]
