"""What the orchestrator opens as it starts."""

from __future__ import annotations

from typing import Any, cast

from acestage.settings import Settings
from services.orchestrator.__main__ import open_client
from tests.unit.job_events import run


def test_songs_have_a_channel_to_a_stage_that_nothing_else_goes_through() -> None:
    """Channels take replicas in turns: with other calls between them, all songs may go to one of two."""

    async def scenario() -> None:
        client = cast(Any, lambda *given: given)
        async with open_client(client, "dit", Settings(dit="dns:///dit:1")) as (stage, target, songs, aside):
            assert (stage, target) == ("dit", "dns:///dit:1")
            assert songs is not aside

    run(scenario())
