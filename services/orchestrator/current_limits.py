"""The limits as the stages are now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from acestage.checkpoints.published import language_model_configs
from acestage.errors import AcestageError
from acestage.limits import Limits
from acestage.planning import LanguageModelMemory
from acestage.protos.stage.v1 import stage_pb2
from acestage.settings import Settings
from services.orchestrator.limits import StageFacts, resolve
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
        self._last: dict[str, StageFacts] = {}
        self.model: stage_pb2.Model | None = None
        """What the stages said last that they serve; None before."""

    async def ask(self, item_count: int) -> Limits:
        """The limits of a request for so many takes; a stage that never answered sets none: its jobs fail."""
        await self._ask_all()
        return self._resolve(item_count)

    async def ask_known(self) -> Limits:
        """The limits of a request for one take.

        Raises:
            AcestageError: a stage does not answer and never has, so nobody knows its limit.
        """
        failures = await self._ask_all()
        for stage in self._stages:
            if stage.stage not in self._last:
                raise failures[stage.stage]
        return self._resolve(item_count=1)

    def after(self, infos: Iterable[stage_pb2.GetStageInfoResponse], item_count: int) -> Limits:
        """The limits of a request for so many takes, given what the stages just said."""
        for info in infos:
            self._note(info)
        return self._resolve(item_count)

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
            self._note(await stage.info(ASK_TIMEOUT_S))
        except AcestageError as error:
            return error
        return None

    def _note(self, info: stage_pb2.GetStageInfoResponse) -> None:
        self._last[info.stage] = StageFacts.from_pb(info)
        self.model = info.model

    def _resolve(self, item_count: int) -> Limits:
        facts = (self._last.get(stage.stage) for stage in self._stages)
        known = [stage for stage in facts if stage is not None]
        return resolve(self._settings, known, self._language_models, item_count)
