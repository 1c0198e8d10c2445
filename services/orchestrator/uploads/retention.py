"""Uploads that nobody uses any more are dropped."""

from __future__ import annotations

import asyncio
import logging

from services.orchestrator.uploads.audio_store import AudioStore

log = logging.getLogger(__name__)

LOOKS_PER_AGE = 20
LONGEST_PAUSE_S = 600.0


async def drop_by_age(store: AudioStore, max_age_s: float) -> None:
    """Drops what was not used for `max_age_s` seconds, again and again until it is cancelled."""
    while True:
        try:
            await asyncio.to_thread(store.drop_unused, max_age_s)
        except OSError as error:  # the disk may do better next time
            log.warning("old uploads could not be dropped: %s", error)
        await asyncio.sleep(min(max_age_s / LOOKS_PER_AGE, LONGEST_PAUSE_S))
