"""What the orchestrator asks of stages."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from services.orchestrator.stage_clients import StageClient


class NotingStage(stage_pb2_grpc.StageServiceServicer):
    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def GetStageInfo(
        self, request: stage_pb2.GetStageInfoRequest, context: Any
    ) -> stage_pb2.GetStageInfoResponse:
        self.asked.append(request.with_memory)
        return stage_pb2.GetStageInfoResponse()


@pytest.mark.parametrize(("options", "asked"), [({}, False), ({"with_memory": True}, True)])
def test_a_stage_tells_its_memory_to_who_asks_for_it_alone(options: dict[str, bool], asked: bool) -> None:
    """Looking takes time from a job that runs, and every generation asks stages what they are."""
    stage = NotingStage()

    async def talk() -> None:
        server = grpc.aio.server()
        stage_pb2_grpc.add_StageServiceServicer_to_server(stage, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await StageClient("dit", "here", channel).info(**options)
        await server.stop(0)

    asyncio.run(talk())
    assert stage.asked == [asked]
