"""What the service has its parts do together."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from acestage.generation import STAGES
from acestage.protos.stage.v1 import stage_pb2
from acestage.settings import Settings
from services.orchestrator.jobs.job_history import JobHistory
from services.orchestrator.jobs.job_queue import JobQueue
from services.orchestrator.jobs.jobs_at_once import jobs_at_once
from services.orchestrator.ledger.lease_service import LeaseService
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.service import GenerationService
from services.orchestrator.stage_clients import StageClient
from services.orchestrator.uploads.audio_store import AudioStore
from tests.unit.job_events import run
from tests.unit.orchestrator.unreached import UNREACHED
from tests.unit.waiting import until


def test_jobs_begin_as_soon_as_stages_turn_out_to_have_devices_for_more_of_them() -> None:
    async def scenario() -> None:
        stages = [StageClient(stage, "nowhere:1", UNREACHED) for stage in STAGES]
        pipeline = Pipeline(*cast(Any, stages), cast(AudioStore, None), Settings())
        queue = JobQueue(max_count=9, slot_count=lambda: jobs_at_once(pipeline.limits.devices()))
        GenerationService(pipeline, queue, cast(LeaseService, None), JobHistory())
        done = asyncio.Event()

        async def work() -> None:
            async with queue.turn(lambda position: None):
                await done.wait()

        async with asyncio.TaskGroup() as jobs:
            for _ in range(3):
                jobs.create_task(work())
            await until(lambda: queue.queued_count == 2)
            assert queue.running_count == 1
            pipeline.limits.note([stage_pb2.GetStageInfoResponse(stage="dit", device="cuda:0")])
            assert (queue.running_count, queue.queued_count) == (3, 0)
            done.set()

    run(scenario())
