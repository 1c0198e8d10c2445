"""What all front doors share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

from acestage.access import Access
from acestage.async_client import AsyncClient
from acestage.settings import Settings
from services.gateway.exports.formats import ExportFormat, usable_formats
from services.gateway.jobs.job_book import JobBook
from services.gateway.outputs.export_shelf import ExportShelf
from services.gateway.outputs.output_area import OutputArea
from services.gateway.places import Places
from services.gateway.served_models import ServedModels

UPLOAD_TIMEOUT_S = 600.0
"""How long a file may be on its way to the orchestrator."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts behind the doors.

    Attributes:
        client: asks the orchestrator.
        book: all jobs.
        area: the folder of finished songs.
        shelf: other formats of them.
        formats: every audio format, with "" where it can be written here, else why not.
        models: that requests may name.
        live_streams: places of listeners to audio that is being decoded; each has an encoder.
        event_streams: places of listeners to events.
        uploads: places of files on their way in; each may take 1 GiB of disk.
        keyless_forms: places of forms whose key, if they have one, is in themselves.
    """

    client: AsyncClient
    book: JobBook
    area: OutputArea
    shelf: ExportShelf
    formats: Mapping[ExportFormat, str]
    models: ServedModels
    live_streams: Places = field(default_factory=lambda: Places("live streams", 16))
    event_streams: Places = field(default_factory=lambda: Places("streams of events", 256))
    uploads: Places = field(default_factory=lambda: Places("uploads", 8))
    keyless_forms: Places = field(default_factory=lambda: Places("forms without a key in the header", 4))


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """The parts behind the doors, as `settings` say; they end with the block.

    Raises:
        FailedPreconditionError: the folder of outputs cannot be used.
    """
    formats = await asyncio.to_thread(usable_formats)
    max_age_s = settings.max_output_age_h * 3600
    area = OutputArea(settings.output_dir, max_bytes=settings.max_output_bytes, max_age_s=max_age_s)
    with closing(area):
        client = AsyncClient(settings.address("orchestrator"), Access.of(settings))
        async with client, JobBook(client, area) as book:
            yield Gateway(client, book, area, ExportShelf(), formats, ServedModels(client))
