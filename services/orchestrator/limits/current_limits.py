"""The limits as the stages are now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from acestage.checkpoints.published import language_model_configs
from acestage.errors import AcestageError
from acestage.limits import Limits
from acestage.planning import LanguageModelMemory
from acestage.protos.stage.v1 import stage_pb2
from acestage.settings import Settings
from services.orchestrator.limits.limits import StageFacts, resolve
from services.orchestrator.models import find_model
from services.orchestrator.stage_clients import StageClient

ASK_TIMEOUT_S = 2.0
"""A stage says what it is from memory; one that takes longer starts, or is gone."""


class CurrentLimits:
    """Asks the stages, and remembers what each said last for the time that it does not answer."""

    def __init__(self, stages: Sequence[StageClient], settings: Settings) -> None:
        self._stages = stages
        self._settings = settings
        self._language_models = [
            LanguageModelMemory.of(name, config) for name, config in language_model_configs().items()
        ]
        self._last: dict[str, stage_pb2.GetStageInfoResponse] = {}
        self._on_other_devices: Callable[[], None] = lambda: None

    def watch_devices(self, on_other_devices: Callable[[], None]) -> None:
        """Has `on_other_devices` called whenever `devices` has changed."""
        self._on_other_devices = on_other_devices

    async def ask(self, item_count: int, model: str) -> Limits:
        """The limits of a request for so many takes of `model`, which `find_model` finds.

        A stage that never answered sets none: its jobs fail.

        Raises:
            InvalidArgumentError: there is no such model.
            FailedPreconditionError: the stages serve different models.
        """
        await self._ask_all()
        return self.known(item_count, model)

    async def ask_known(self, model: str) -> Limits:
        """The limits of a request for one take of `model`.

        Raises:
            AcestageError: as of `ask`; or a stage does not answer and never has, so nobody knows its limit.
        """
        failures = await self._ask_all()
        for stage in self._stages:
            if stage.stage not in self._last:
                raise failures[stage.stage]
        return self.known(1, model)

    def note(self, infos: Iterable[stage_pb2.GetStageInfoResponse]) -> None:
        """Remembers what stages said when somebody else asked them."""
        self._remember({info.stage: info for info in infos})

    def known(self, item_count: int, asked: str) -> Limits:
        """The limits of a request for so many takes of the model `asked`, by what the stages said last."""
        model = self.model(asked)
        name = model.name if model else ""
        facts = [StageFacts.from_pb(info, name) for info in self._infos()]
        return resolve(self._settings, facts, self._language_models, item_count, model=name)

    def model(self, asked: str) -> stage_pb2.Model | None:
        """The model that a request means by `asked`, by what the stages said last; None where none has.

        Raises:
            InvalidArgumentError: there is no such model.
            FailedPreconditionError: the stages serve different models.
        """
        infos = self._infos()
        return find_model(infos, asked) if infos else None

    def devices(self) -> frozenset[str]:
        """The devices of the stages, by what they said last."""
        return frozenset(info.device for info in self._last.values())

    async def _ask_all(self) -> dict[str, AcestageError]:
        """Why stages did not answer, by stage."""
        failures = await asyncio.gather(*(self._ask(stage) for stage in self._stages))
        return {
            stage.stage: error
            for stage, error in zip(self._stages, failures, strict=True)
            if error is not None
        }

    async def _ask(self, stage: StageClient) -> AcestageError | None:
        try:
            self._remember({stage.stage: await stage.info(ASK_TIMEOUT_S)})
        except AcestageError as error:
            return error
        return None

    def _remember(self, infos: Mapping[str, stage_pb2.GetStageInfoResponse]) -> None:
        before = self.devices()
        self._last.update(infos)
        if self.devices() != before:
            self._on_other_devices()

    def _infos(self) -> list[stage_pb2.GetStageInfoResponse]:
        """What stages said last, in the order of a job's way."""
        return [self._last[stage.stage] for stage in self._stages if stage.stage in self._last]
