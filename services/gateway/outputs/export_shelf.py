"""Other formats of finished takes, made when somebody asks for them, and kept beside the first."""

from __future__ import annotations

import asyncio
from pathlib import Path

from acestage.errors import FailedPreconditionError, InvalidArgumentError
from services.gateway.exports.formats import ExportFormat
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobState
from services.gateway.outputs.takes import MASTER_FORMAT, export_name, write_take
from services.runtime.processes.finishing import finish

EXPORTER_COUNT = 2
"""Exports at a time: ten minutes of mp3 take 25 s of a core, or two cores for half of that."""


class ExportShelf:
    """Finds the file of a take in a format, or makes it; who asks for the same meanwhile waits for it."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(EXPORTER_COUNT)
        self._going: dict[tuple[str, int, ExportFormat], asyncio.Task[Path]] = {}

    async def find(self, job: Job, index: int, audio_format: ExportFormat) -> Path:
        """Where take `index` of a finished `job` lies in `audio_format`.

        Raises:
            InvalidArgumentError: there is no such take.
            FailedPreconditionError: the job has made no audio.
            ExportError: the file cannot be written.
        """
        check_take(job, index)
        take = job.record.takes[index]
        is_master = audio_format is MASTER_FORMAT and not job.record.order.edge_fade_ms
        path = job.folder / (take.master if is_master else export_name(job.record, index, audio_format))
        if await asyncio.to_thread(path.is_file):
            return path
        key = (job.job_id, index, audio_format)
        if key not in self._going:
            task = self._going[key] = asyncio.create_task(self._make(job, index, audio_format))
            task.add_done_callback(lambda _: self._going.pop(key))
        return await asyncio.shield(self._going[key])

    async def _make(self, job: Job, index: int, audio_format: ExportFormat) -> Path:
        async with self._places:
            return await finish(asyncio.to_thread(write_take, job.folder, job.record, index, audio_format))


def check_take(job: Job, index: int) -> None:
    """The job must have a finished take of that number.

    Raises:
        InvalidArgumentError: there is no such take.
        FailedPreconditionError: the job has made no audio.
    """
    record = job.record
    if record.state is not JobState.SUCCEEDED:
        raise FailedPreconditionError(f"job {record.job_id} has no audio: it is {record.state}")
    if not 0 <= index < len(record.takes):
        raise InvalidArgumentError.at("take", f"is {index}; accepted: 0 to {len(record.takes) - 1}")
