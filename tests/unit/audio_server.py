"""An audio service on a free port, without an orchestrator around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from acestage.protos.audio.v1 import audio_pb2_grpc
from acestage.settings import Settings
from services.orchestrator.uploads.audio_facts import AudioFacts, RawFormat
from services.orchestrator.uploads.audio_intake import take_in
from services.orchestrator.uploads.audio_service import AudioService
from services.orchestrator.uploads.audio_store import AudioStore
from services.runtime.rpc.server import Server

NAME = "acestage.audio.v1.AudioService"


async def decode_here(source: Path, raw: RawFormat | None, destination: Path) -> AudioFacts:
    """Decodes in a thread: to start a process would take longer than all else here."""

    def work() -> AudioFacts:
        with destination.open("xb") as file:
            return take_in(source, raw, file)

    return await asyncio.to_thread(work)


class Served:
    """A service that answers at `target`, and the folder of its store."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        self._options = {"decode": decode_here} | options
        self.target = ""

    def files(self) -> list[str]:
        """Of the store's folder; what is kept ends in ".audio"."""
        # Unlike `rglob`, this takes no offence at a folder that is removed meanwhile.
        return sorted(name for _, _, files in os.walk(self._folder) for name in files)

    def run(self, scenario: Callable[[], Any]) -> Any:
        """Runs `scenario` in a thread while the service is up."""

        async def main() -> Any:
            with closing(AudioStore(self._folder, 1 << 30)) as store:
                server = Server("orchestrator", (NAME,), Settings(host="127.0.0.1"), port=0)
                audio_pb2_grpc.add_AudioServiceServicer_to_server(
                    AudioService(store, **self._options), server.grpc
                )
                self.target = f"127.0.0.1:{await server.start()}"
                try:
                    return await asyncio.to_thread(scenario)
                finally:
                    await server.grpc.stop(0)

        return asyncio.run(main())
